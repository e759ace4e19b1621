from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import Memory
from metriplex import MetricsCallback, average_stats
from metriplex.demo.policy import ActorCritic
from metriplex.demo.ppo import Batch, Config, loss, train
from metriplex.demo.rollout import Rollout
from metriplex.errors import ConfigurationError

SHORT = Config(num_envs=4, rollout_length=32, num_iterations=3, hidden=(16,))
TAGS = {
    *("loss", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction"),
    *("explained_variance", "grad_norm", "learning_rate"),
}


def assert_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.fixture(scope="module")
def silent():
    return train(None, jax.random.key(3), SHORT)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    memory = Memory()
    with MetricsCallback(log_dir=str(tmp_path_factory.mktemp("logs")), backends=memory) as m:
        trained = train(m, jax.random.key(3), SHORT)
    return trained, memory.records


@pytest.mark.long
def test_logging_changes_no_bit_of_what_is_learned(silent, logged):
    assert silent.metrics is None
    assert_equal(silent.policy, logged[0].policy)
    assert_equal(silent.opt_state, logged[0].opt_state)


@pytest.mark.long
def test_the_key_decides_what_is_learned(silent):
    assert_equal(train(None, jax.random.key(3), SHORT), silent)
    other = train(None, jax.random.key(4), SHORT)
    assert (np.asarray(other.policy.actor[0][0]) != np.asarray(silent.policy.actor[0][0])).all()


@pytest.mark.long
def test_each_iteration_is_one_record_with_all_there_is_to_know(logged):
    trained, records = logged
    assert [r.step for r in records] == [128, 256, 384]
    assert [r.iteration for r in records] == [0, 1, 2]
    assert SHORT.total_steps == 384
    for record in records:
        trained_tags = {t.removeprefix("train/") for t in record.values if t.startswith("train/")}
        assert trained_tags == TAGS
        values = {tag.removeprefix("train/"): v for tag, v in record.values.items()}
        assert values["entropy"] == pytest.approx(np.log(2), abs=0.02)  # nearly uniform still
        assert values["loss"] == pytest.approx(
            values["policy_loss"] + 0.5 * values["value_loss"], rel=1e-5
        )
        assert 0 <= values["clip_fraction"] <= 1
        assert values["approx_kl"] >= 0
        assert values["grad_norm"] > 0
        assert values["explained_variance"] <= 1
        assert 8 <= values["episode/return"] == values["episode/length"] <= 128
    # the rate of the last of 32 updates an iteration, on the line from its start to 0
    rates = [r.values["train/learning_rate"] for r in records]
    lines = [SHORT.learning_rate * (1 - n / 96) for n in (31, 63, 95)]
    assert rates == pytest.approx(lines, rel=1e-4)
    final_return, _, finished = average_stats(trained.metrics.episodes)
    assert bool(finished)
    assert records[-1].values["episode/return"] == float(final_return)


@pytest.mark.slow
def test_seeds_train_side_by_side_as_they_do_alone(silent):
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    both = jax.vmap(lambda key: train(None, key, SHORT))(keys)
    for a, b in zip(jax.tree.leaves(both.policy), jax.tree.leaves(silent.policy), strict=True):
        np.testing.assert_allclose(a[0], b, atol=2e-3)  # sums are taken in another order


@pytest.mark.parametrize("floor", [0.01, 3.0])
@pytest.mark.long
def test_the_loss_is_that_of_the_paper(floor):
    rng = np.random.default_rng(0)
    policy = ActorCritic.init(jax.random.key(0), 2, 2, (4,))
    policy = replace(policy, actor=jax.tree.map(lambda x: 30 * x, policy.actor))
    observation = rng.normal(size=(32, 2)).astype(np.float32)
    action = rng.integers(0, 2, 32)
    old = np.log(rng.uniform(0.2, 0.8, 32)).astype(np.float32)
    advantage, target = rng.normal(size=(2, 32)).astype(np.float32)
    nothing = jnp.zeros(32)
    rollout = Rollout(
        *map(jnp.asarray, (observation, action, old)), None, nothing, nothing, nothing, nothing
    )
    config = Config(
        clip=0.2, entropy_coefficient=0.03, value_coefficient=0.7, advantage_floor=floor
    )
    total, log = loss(policy, Batch(rollout, jnp.asarray(advantage), jnp.asarray(target)), config)

    logits = np.float64(policy.logits(jnp.asarray(observation)))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ratio = probabilities[np.arange(32), action] / np.exp(np.float64(old))
    a = (advantage - advantage.mean()) / max(advantage.std(), floor)
    terms = [min(r * x, min(max(r, 0.8), 1.2) * x) for r, x in zip(ratio, a, strict=True)]
    policy_loss = -np.mean(terms)
    value_loss = np.mean((np.float64(policy.value(jnp.asarray(observation))) - target) ** 2) / 2
    entropy = -np.mean(np.sum(probabilities * np.log(probabilities), axis=1))
    expected = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": np.mean(ratio - 1 - np.log(ratio)),
        "clip_fraction": np.mean(np.abs(ratio - 1) > 0.2),
        "loss": policy_loss + 0.7 * value_loss - 0.03 * entropy,
    }
    assert log.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(log[name], value, rtol=1e-4, err_msg=name)
    assert float(total) == float(log["loss"])


@final
@dataclass(frozen=True)
class Bandit:
    """Every episode is one step; of four actions only the third pays."""

    name: str = "Bandit"
    num_actions: int = 4

    @property
    def unwrapped(self) -> Any:
        return self

    def initial(self, *, key):
        return jnp.zeros(1)

    def transition(self, state, action, *, key):
        return state

    def observation(self, state, *, key):
        return state

    def action_mask(self, state, *, key):
        return None

    def reward(self, state, action, next_state, *, key):
        return (action == 2).astype(jnp.float32)

    def terminal(self, state, *, key):
        return jnp.bool_(True)

    def truncate(self, state):
        return jnp.bool_(False)


@pytest.mark.long
def test_it_learns_which_arm_pays():
    config = replace(SHORT, num_iterations=20, learning_rate=0.01)
    policy = train(None, jax.random.key(0), config, Bandit()).policy
    assert float(jax.nn.softmax(policy.logits(jnp.zeros(1)))[2]) > 0.95
    np.testing.assert_allclose(policy.value(jnp.zeros(1)), 1.0, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "`num_envs` must be at least 1; got 0"),
        ({"num_iterations": -5}, "`num_iterations` must be at least 1; got -5"),
        ({"num_envs": 5, "rollout_length": 5}, "which is 25; got 4"),
    ],
)
def test_what_cannot_be_trained_with_is_an_error(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Config(**arguments)


@pytest.mark.slow
def test_it_solves_cartpole_with_every_seed(tmp_path):
    memory = Memory()
    with MetricsCallback(log_dir=str(tmp_path), backends=memory) as metrics:
        keys = jax.vmap(jax.random.key)(jnp.arange(5))
        jax.jit(jax.vmap(train, (None, 0)))(metrics, keys)
    for seed in range(5):
        returns = [r.values["episode/return"] for r in memory.records if r.lane == seed]
        assert returns[0] < 50, seed
        assert returns[-1] >= 475, seed
