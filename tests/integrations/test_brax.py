"""brax: metrics and videos of its own PPO, and drawing of its environments."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import small_ppo
from metriplex.integrations.brax import BraxEnvironment

envs = pytest.importorskip("brax.envs", reason="brax is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of brax's own code
]


def test_metrics_of_ppo_are_logged_and_videos_show_its_policies(tmp_path, monkeypatch):
    pytest.importorskip("metriplex_mujoco")
    env = envs.get_environment("inverted_pendulum", backend="positional")
    small_ppo.check(*small_ppo.train(env, tmp_path, monkeypatch))


def test_positions_are_those_of_the_simulation_in_the_order_of_mujoco():
    env = BraxEnvironment(envs.get_environment("inverted_pendulum", backend="positional"))
    assert env.name == "InvertedPendulum"
    state = env.initial(key=jax.random.key(0))
    assert env.mujoco_model.nq == len(state.data.qpos) == 2
    np.testing.assert_array_equal(state.data.qpos, env.observation(state, key=None)[:2])
    assert not bool(env.terminal(state, key=None))
