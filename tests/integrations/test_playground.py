"""MuJoCo Playground: brax trains on its environments, which are drawn by their MuJoCo models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import small_ppo
from metriplex.integrations.brax import BraxEnvironment

playground = pytest.importorskip("mujoco_playground", reason="playground is not installed")
renderers = pytest.importorskip("metriplex_mujoco")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries' own code
]


@pytest.fixture(scope="module")
def env():
    return playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})


def test_metrics_of_a_training_are_logged_and_videos_show_its_policies(env, tmp_path, monkeypatch):
    memory, reported = small_ppo.train(
        env, tmp_path, monkeypatch, wrap_env_fn=playground.wrapper.wrap_for_brax_training
    )
    small_ppo.check(memory, reported)
    training, evaluation = memory.records[1].values, memory.records[-1].values
    assert training["episode/length"] == 16
    assert training["episode/return"] > 0
    upright = evaluation["eval/episode_reward/upright"]
    assert upright == reported[-1]["eval/episode_reward/upright"]
    assert 0 < upright <= 16


def test_an_environment_is_played_and_drawn(env):
    shown = BraxEnvironment(env)
    renderer = renderers.MujocoRendererPlugin().make_renderer(env=shown, width=64, height=48)

    def play(key):
        state = shown.initial(key=key)
        after = shown.transition(state, jnp.ones(env.action_size), key=key)
        return renderer.select(state), renderer.select(after), shown.terminal(after, key=key)

    before, after, ends = jax.device_get(jax.jit(play)(jax.random.key(0)))
    assert set(before) == {"qpos"}
    assert np.shape(after["qpos"]) == (shown.mujoco_model.nq,)
    assert (before["qpos"] != after["qpos"]).any()
    assert not ends
    frame = renderer.render(after)
    assert frame.shape == (48, 64, 3)
    assert len(np.unique(frame)) > 2
    renderer.close()
