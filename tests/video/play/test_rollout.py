"""The rollout, against a loop in Python over the environment itself."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from metriplex.demo.cartpole import CartPole
from metriplex.demo.policy import ActorCritic
from metriplex.video.play.environments import PatternEnvironment
from metriplex.video.play.policies import adapt_policy
from metriplex.video.play.rollout import play, rollout
from video.cases import Line, State, Walker

STEPS = 30


def by_hand(env: Any, policy: Any, key: jax.Array, num_steps: int) -> list[Any]:
    """The states, by the protocol of the callback pattern alone."""
    env_key, policy_key, steps_key = jax.random.split(key, 3)
    state, memory = env.initial(key=env_key), policy.reset(key=policy_key)

    @jax.jit  # eager jax is slow
    def turn(state: Any, memory: Any, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        observe, mask, act, step, _, _ = jax.random.split(key, 6)
        memory, action = policy(
            memory,
            env.observation(state, key=observe),
            key=act,
            action_mask=env.action_mask(state, key=mask),
        )
        state = env.transition(state, action, key=step)
        return state, memory, env.terminal(state, key=step) | env.truncate(state)

    states = []
    for step_key in jax.random.split(steps_key, num_steps):
        states.append(state)
        state, memory, done = turn(state, memory, step_key)
        if done:
            *_, reset, forget = jax.random.split(step_key, 6)
            state, memory = env.initial(key=reset), policy.reset(key=forget)
    return states


def words(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def everything(state: Any) -> Any:
    return state


@jax.tree_util.Partial
def see(observation: Any) -> Any:
    return observation


def traced(env: Any, policy: Any, key: jax.Array, num_steps: int = STEPS) -> Any:
    return compiled(env, num_steps)(policy, key)


@functools.cache
def compiled(env: Any, num_steps: int) -> Any:
    adapted = PatternEnvironment(env)
    return jax.jit(functools.partial(rollout, adapted, num_steps=num_steps, select=everything))


LINE = Line(limit=12)


@pytest.fixture(scope="module")
def walked() -> tuple[Any, list[Any]]:
    env, policy, key = LINE, Walker(jnp.float32(0.5)), jax.random.key(3)
    return traced(env, policy, key), by_hand(env, policy, key, STEPS)


@pytest.mark.long
def test_it_is_what_a_loop_over_the_environment_gives(walked: Any) -> None:
    states, expected = walked
    stacked = [np.stack([words(getattr(one, name)) for one in expected]) for name in State._fields]
    for name, theirs in zip(State._fields, stacked, strict=True):
        ours = np.asarray(getattr(states, name))
        assert ours.shape == theirs.shape
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_leaves_keep_their_dtypes_and_keys_become_their_words(walked: Any) -> None:
    states, _ = walked
    dtypes = {name: getattr(states, name).dtype for name in State._fields}
    assert dtypes == {
        "x": np.float32,
        "age": np.int32,
        "fell": np.bool_,
        "half": np.float16,
        "typed_key": np.uint32,
        "raw_key": np.uint32,
    }


def test_an_episode_that_ends_is_followed_by_a_new_one(walked: Any) -> None:
    ages = np.asarray(walked[0].age)
    starts = np.flatnonzero(ages == 0).tolist()
    assert len(starts) >= 3
    assert starts[0] == 0
    for start, end in zip(starts, [*starts[1:], STEPS], strict=True):
        assert ages[start:end].tolist() == list(range(end - start))
    xs = np.asarray(walked[0].x)
    assert (xs[starts] < 1).all()
    assert len(set(xs[starts].tolist())) == len(starts)  # each from a key of its own


def test_truncation_ends_an_episode() -> None:
    states = traced(Line(limit=4), Walker(jnp.float32(0.0)), jax.random.key(0), 10)
    assert np.asarray(states.age).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_the_key_decides() -> None:
    env, policy = LINE, Walker(jnp.float32(0.5))
    first, again, other = (
        np.asarray(traced(env, policy, jax.random.key(seed)).x) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


@pytest.mark.long
def test_cartpole_with_the_demo_s_policy_is_what_a_loop_gives() -> None:
    env, key = CartPole(), jax.random.key(5)
    policy = ActorCritic.init(jax.random.key(0), 4, env.num_actions, (8,))
    ours = traced(env, policy, key, 30)
    theirs = by_hand(env, policy, key, 30)
    for mine, *steps in zip(jax.tree.leaves(ours), *map(jax.tree.leaves, theirs), strict=True):
        expected = np.stack([words(step) for step in steps])
        np.testing.assert_allclose(np.asarray(mine), expected, rtol=1e-4, atol=1e-6)


def test_played_on_the_host_it_is_the_same() -> None:
    env, policy, key = LINE, Walker(jnp.float32(0.9)), jax.random.key(8)
    ours = traced(env, policy, key)
    theirs = list(
        play(PatternEnvironment(env), adapt_policy(policy), key, num_steps=STEPS, select=everything)
    )
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(theirs))
    for name in State._fields:
        stacked = np.stack([getattr(state, name) for state in theirs])
        assert stacked.dtype == getattr(ours, name).dtype
        np.testing.assert_allclose(
            np.asarray(getattr(ours, name)), stacked, rtol=1e-5, err_msg=name
        )


def test_64_bit_leaves_stay_so() -> None:
    class Wide:
        def initial(self, *, key: jax.Array) -> Any:
            return {"x": jnp.zeros((), jnp.float64), "n": jnp.zeros((), jnp.int64)}

        def transition(self, state: Any, action: jax.Array, *, key: jax.Array) -> Any:
            return {"x": state["x"] + 1e-12, "n": state["n"] + 2**40}

        def observation(self, state: Any, *, key: jax.Array) -> jax.Array:
            return state["x"]

        def terminal(self, state: Any, *, key: jax.Array) -> jax.Array:
            return state["n"] > 2**41

    with jax.enable_x64(True):
        states = traced(Wide(), see, jax.random.key(0), 4)
    assert states["n"].dtype == np.int64
    assert states["n"].tolist() == [0, 2**40, 2**41, 0]
    assert states["x"].dtype == np.float64
    assert states["x"].tolist() == [0.0, 1e-12, 2e-12, 0.0]


def test_a_state_that_changes_its_dtype_is_brought_back_to_the_first_one() -> None:
    class Sloppy:
        def initial(self, *, key: jax.Array) -> Any:
            return jnp.float32(0)

        def transition(self, state: Any, action: jax.Array, *, key: jax.Array) -> Any:
            return jnp.int32(state) + 1

        def observation(self, state: Any, *, key: jax.Array) -> jax.Array:
            return state

        def terminal(self, state: Any, *, key: jax.Array) -> bool:
            return False

    states = traced(Sloppy(), see, jax.random.key(0), 3)
    assert states.dtype == np.float32
    assert states.tolist() == [0.0, 1.0, 2.0]


def test_under_shard_map_each_device_plays_its_own() -> None:
    env, policy = PatternEnvironment(LINE), Walker(jnp.float32(0.5))
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))

    def one(keys: jax.Array) -> jax.Array:
        states = rollout(env, policy, keys[0], num_steps=STEPS, select=everything)
        return states.x[None]

    spread = PartitionSpec("d")
    keys = jax.random.split(jax.random.key(1), 2)
    xs = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=spread, out_specs=spread))(keys)
    for key, x in zip(keys, np.asarray(xs), strict=True):
        expected = traced(LINE, policy, key).x
        np.testing.assert_allclose(x, np.asarray(expected), rtol=1e-5)


@pytest.mark.long
def test_an_equinox_module_acts() -> None:
    network = eqx.nn.MLP(2, "scalar", 8, 1, key=jax.random.key(0))
    env, key = PatternEnvironment(Line()), jax.random.key(1)

    @eqx.filter_jit
    def run(network: Any) -> Any:
        return rollout(env, network, key, num_steps=5, select=everything)

    states = run(network).x
    expected = [
        state.x for state in play(env, adapt_policy(network), key, num_steps=5, select=everything)
    ]
    np.testing.assert_allclose(np.asarray(states), np.stack(expected), rtol=1e-5)
