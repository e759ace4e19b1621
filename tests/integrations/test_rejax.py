"""rejax: the logged evaluations equal those that `train` returns, for each seed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from memory import logging_to_memory
from metriplex.errors import LoggingError
from metriplex.integrations.gymnax import GymnaxEnvironment
from metriplex.integrations.rejax import eval_callback

rejax = pytest.importorskip("rejax", reason="rejax is not installed")
if not hasattr(pytest.importorskip("gymnax"), "EnvParams") or hasattr(
    pytest.importorskip("gymnax.environments.environment").Environment, "is_truncated"
):
    pytest.skip("this rejax needs gymnax before 1.0", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of rejax's and gymnax's own code
SIZE: dict[str, Any] = {
    "num_envs": 4,
    "total_timesteps": 256,
    "eval_freq": 100,
    "learning_rate": 2e-3,
}
PPO: dict[str, Any] = {"num_steps": 16, "num_epochs": 1, "num_minibatches": 2}


def make(name: str = "ppo", **options):
    return rejax.get_algo(name).create(env="CartPole-v1", **SIZE, **options)


def test_every_evaluation_of_every_seed_arrives_in_order(tmp_path):
    algo = make(**PPO)
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    with logging_to_memory(tmp_path) as (metrics, memory):
        logged = algo.replace(eval_callback=eval_callback(metrics, algo.eval_callback))
        train_state, (lengths, returns) = jax.jit(jax.vmap(logged.train))(keys)
    assert memory.lanes == [0, 1]
    for lane in memory.lanes:
        assert memory.steps(lane) == [0, 128, 256, 384]
        assert [r.iteration for r in memory.records if r.lane == lane] == [0, 1, 2, 3]
        np.testing.assert_allclose(memory.values("eval/return", lane), returns[lane].mean(-1))
        np.testing.assert_allclose(memory.values("eval/return_min", lane), returns[lane].min(-1))
        np.testing.assert_allclose(memory.values("eval/return_max", lane), returns[lane].max(-1))
        np.testing.assert_allclose(memory.values("eval/length", lane), lengths[lane].mean(-1))
        np.testing.assert_allclose(memory.values("train/learning_rate", lane), [2e-3] * 4)
    plain, _ = jax.jit(jax.vmap(algo.train))(keys)
    for ours, theirs in zip(
        jax.tree.leaves(train_state.actor_ts.params),
        jax.tree.leaves(plain.actor_ts.params),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_video_shows_the_agent_of_an_evaluation(tmp_path):
    pytest.importorskip("metriplex_pygame")
    algo = make("dqn", fill_buffer=32, batch_size=8, skip_initial_evaluation=True)
    options: dict[str, Any] = {
        "env": GymnaxEnvironment(algo.env, algo.env_params),
        "video_interval": 2,
        "video_num_steps": 8,
        "video_width": 64,
        "video_height": 48,
        "video_worker": "thread",
    }
    with logging_to_memory(tmp_path, **options) as (metrics, memory):
        logged = algo.replace(eval_callback=eval_callback(metrics, algo.eval_callback))
        _, (_, returns) = jax.jit(logged.train)(jax.random.PRNGKey(0))
        metrics.close(timeout=300)
    assert memory.steps() == [100, 200, 300]
    np.testing.assert_allclose(memory.values("eval/return"), returns.mean(-1))
    assert [(video.step, video.clips["mp4"].num_frames) for video in memory.videos] == [
        (100, 8),
        (300, 8),
    ]


def test_a_custom_evaluation_is_logged_by_its_names(tmp_path):
    algo = make(**PPO)

    def evaluate(algo, train_state, rng):
        return {"twice": 2 * train_state.global_step}

    with logging_to_memory(tmp_path) as (metrics, memory):
        logged = algo.replace(eval_callback=eval_callback(metrics, evaluate))
        _, evaluation = jax.jit(logged.train)(jax.random.PRNGKey(0))
    assert memory.values("eval/twice") == [0, 256, 512, 768]
    np.testing.assert_array_equal(evaluation["twice"], memory.values("eval/twice"))


def test_transport_drain_raises(tmp_path):
    algo = make(**PPO)
    with logging_to_memory(tmp_path, transport="drain", buffer=4) as (metrics, _):
        logged = algo.replace(eval_callback=eval_callback(metrics, algo.eval_callback))
        with pytest.raises(LoggingError, match='`transport="drain"` takes records from a state'):
            jax.jit(logged.train)(jax.random.PRNGKey(0))
