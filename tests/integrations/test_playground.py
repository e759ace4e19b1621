"""MuJoCo Playground: its environments are played, and drawn by their MuJoCo models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriplex.integrations.brax import BraxEnvironment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries' own code
]


def test_an_environment_is_played_and_drawn():
    registry = pytest.importorskip(
        "mujoco_playground", reason="playground is not installed"
    ).registry
    renderers = pytest.importorskip("metriplex_mujoco")
    env = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
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
