from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex.demo.policy import ActorCritic
from metriplex.demo.rollout import collect, gae, reset

KEY = jax.random.key(0)


@final
@dataclass(frozen=True)
class Clock:
    """Counts steps: terminates at `end`, is truncated at `cut`; allows but one action a step."""

    end: int
    cut: int
    name: str = "Clock"
    num_actions: int = 3

    @property
    def unwrapped(self) -> Any:
        return self

    def initial(self, *, key):
        return {"time": jnp.int32(0), "id": jax.random.randint(key, (2,), 0, 2**30)}

    def transition(self, state, action, *, key):
        return {**state, "time": state["time"] + 1}

    def observation(self, state, *, key):
        return jnp.atleast_1d(state["time"]).astype(jnp.float32)

    def action_mask(self, state, *, key):
        return jnp.arange(3) == state["time"] % 3

    def reward(self, state, action, next_state, *, key):
        return 10.0 * state["time"] + action

    def terminal(self, state, *, key):
        return state["time"] >= self.end

    def truncate(self, state):
        return state["time"] >= self.cut


@pytest.mark.parametrize(
    ("env", "length", "terminates"),
    [(Clock(end=4, cut=100), 4, True), (Clock(end=100, cut=4), 4, False), (Clock(3, 3), 3, True)],
)
@pytest.mark.long
def test_environments_start_again_by_themselves(env, length, terminates):
    policy = ActorCritic.init(KEY, 1, 3, (4,))
    start = reset(env, KEY, 2)
    envs, rollout = jax.jit(lambda p, s, k: collect(env, p, s, k, 10))(policy, start, KEY)

    before = np.arange(10) % length
    both = np.stack([before, before], axis=1)
    last = both == length - 1
    np.testing.assert_array_equal(rollout.observation[..., 0], both)
    np.testing.assert_array_equal(rollout.next_observation[..., 0], both + 1)  # before the reset
    np.testing.assert_array_equal(rollout.terminated, last & terminates)
    np.testing.assert_array_equal(rollout.truncated, last & (not terminates))
    np.testing.assert_array_equal(rollout.action, both % 3)
    np.testing.assert_array_equal(rollout.reward, 10 * both + both % 3)
    np.testing.assert_allclose(rollout.log_prob, 0.0, atol=1e-6)  # the only action allowed
    np.testing.assert_array_equal(envs.observation[:, 0], [10 % length] * 2)

    ids = np.asarray(envs.state["id"])
    assert (ids != np.asarray(start.state["id"])).all()  # new episodes are drawn anew, ...
    assert len(np.unique(ids)) == 4  # ... and differently for each environment


def naive_gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """The definition: a sum of discounted one-step errors up to the end of the episode."""
    advantage = np.zeros(len(reward))
    for start in range(len(reward)):
        weight = 1.0
        for t in range(start, len(reward)):
            future = 0.0 if terminated[t] else next_value[t]
            advantage[start] += weight * (reward[t] + gamma * future - value[t])
            if terminated[t] or truncated[t]:
                break
            weight *= gamma * lam
    return advantage


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 0.5),
)
@pytest.mark.long
def test_advantages_are_those_of_the_definition(seed, gamma, lam, ending):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, 12, 2)).astype(np.float32)
    terminated, truncated = rng.random((2, 12, 2)) < ending
    got = gae(
        *map(jnp.asarray, (reward, value, next_value, terminated, truncated)),
        gamma=gamma,
        gae_lambda=lam,
    )
    for env in range(2):
        parts = [x[:, env] for x in (reward, value, next_value, terminated, truncated)]
        np.testing.assert_allclose(got[:, env], naive_gae(*parts, gamma, lam), atol=1e-4)


def test_a_truncation_is_bootstrapped_and_a_termination_is_not():
    ones, no, yes = jnp.ones(1), jnp.zeros(1, bool), jnp.ones(1, bool)
    for terminated, truncated, expected in [(yes, no, 1 - 5), (no, yes, 1 + 0.9 * 7 - 5)]:
        advantage = gae(ones, 5 * ones, 7 * ones, terminated, truncated, gamma=0.9, gae_lambda=0.95)
        np.testing.assert_allclose(advantage, [expected], rtol=1e-6)
