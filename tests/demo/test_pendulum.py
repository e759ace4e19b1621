from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import Memory
from metriplex import MetricsCallback, average_stats
from metriplex.demo.pendulum import FORCES, Pendulum, PendulumState
from metriplex.demo.ppo import train
from metriplex.demo.tasks import TASKS
from metriplex.errors import ConfigurationError

mujoco: Any = pytest.importorskip("mujoco")
pytest.importorskip("mujoco.mjx")

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def env():
    return Pendulum()


@pytest.fixture(scope="module")
def transition(env):
    return jax.jit(env.transition)


def make(env, qpos, qvel=(0.0, 0.0), time=0) -> PendulumState:
    data = env.initial(key=KEY).sim_state
    data = data.replace(qpos=jnp.array(qpos, jnp.float32), qvel=jnp.array(qvel, jnp.float32))
    return PendulumState(data, jnp.int32(time))


@pytest.mark.parametrize("action", range(len(FORCES)))
@pytest.mark.long
def test_a_step_is_mujocos_own(env, transition, action):
    rng = np.random.default_rng(action)
    for _ in range(10):
        qpos, qvel = rng.uniform(-1, 1, (2, 2)) * [[1.5, np.pi], [3.0, 8.0]]
        data = mujoco.MjData(env.mujoco_model)
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, FORCES[action]
        mujoco.mj_step(env.mujoco_model, data)
        after = transition(make(env, qpos, qvel, 7), jnp.int32(action))
        np.testing.assert_allclose(after.sim_state.qpos, data.qpos, atol=2e-5)
        np.testing.assert_allclose(after.sim_state.qvel, data.qvel, atol=2e-4)
        assert int(after.time) == 8


def test_what_the_pictures_show_weighs_nothing(env):
    model = env.mujoco_model
    masses = {model.geom(i).name: model.body(model.geom_bodyid[i]).mass for i in range(model.ngeom)}
    assert float(masses["cart"][0]) == pytest.approx(1.0)
    assert float(masses["bob"][0]) == pytest.approx(0.2)
    assert model.nq == model.nv == 2
    assert model.nu == 1


@pytest.mark.long
def test_it_hangs_when_an_episode_begins(env):
    states = jax.vmap(lambda key: env.initial(key=key))(jax.random.split(KEY, 500))
    position, angle = states.sim_state.qpos.T
    for off in (position, angle - np.pi, *states.sim_state.qvel.T):
        assert float(jnp.abs(off).max()) <= 0.1 + 1e-6
        assert float(off.std()) == pytest.approx(0.2 / np.sqrt(12), rel=0.1)
    assert not bool(states.time.any())


@pytest.mark.parametrize(
    ("qpos", "reward"),
    [
        ((0.0, 0.0), 1.0),
        ((0.0, np.pi), 0.0),
        ((0.0, -np.pi / 2), 0.5),
        ((1.5, 0.0), 0.5),
        ((-0.75, np.pi / 2), 0.5 * (1 - 0.125)),
        ((30.0, 2 * np.pi), 0.5),
    ],
)
def test_what_a_step_earns(env, qpos, reward):
    got = env.reward(make(env, (1, 1)), jnp.int32(0), make(env, qpos), key=KEY)
    assert float(got) == pytest.approx(reward, abs=1e-5)


def test_an_episode_ends_at_the_stops_or_when_its_time_is_over(env):
    positions = {-1.51: True, -1.49: False, 0.0: False, 1.49: False, 1.51: True}
    for position, ended in positions.items():
        assert bool(env.terminal(make(env, (position, 0)), key=KEY)) is ended
    assert [bool(env.truncate(make(env, (0, 0), time=t))) for t in (499, 500)] == [False, True]


def test_an_observation_knows_no_full_turns(env):
    one = env.observation(make(env, (0.3, 0.5), (1.0, 2.0)), key=KEY)
    np.testing.assert_allclose(one, [0.3, np.cos(0.5), np.sin(0.5), 1.0, 0.5], rtol=1e-6)
    other = env.observation(make(env, (0.3, 0.5 - 4 * np.pi), (1.0, 2.0)), key=KEY)
    np.testing.assert_allclose(other, one, atol=1e-5)


def test_it_speaks_the_pattern(env):
    assert env.unwrapped is env
    assert env.name == "Pendulum"
    assert env.num_actions == 7
    assert isinstance(env.unwrapped.mujoco_model, mujoco.MjModel)
    assert env.mujoco_model.camera("track").id == 0
    state = env.initial(key=KEY)
    assert env.action_mask(state, key=KEY) is None
    assert state.unwrapped.sim_state.qpos.shape == (2,)
    assert {env: 1}[env] == 1  # can be a static argument


def test_without_mjx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigurationError, match="pip install metriplex-mujoco mujoco-mjx"):
        Pendulum()


@pytest.mark.slow
def test_a_short_training_earns_more(env, tmp_path):
    memory = Memory()
    config = replace(TASKS["pendulum"].config, num_iterations=40)
    with MetricsCallback(log_dir=str(tmp_path), backends=memory) as metrics:
        train(metrics, jax.random.key(0), config, env)
    returns = memory.values("episode/return")
    assert returns[0] < 20
    assert returns[-1] > 30


def test_the_mujoco_renderer_draws_it(env):
    pytest.importorskip("metriplex_mujoco")
    from metriplex.plugins.renderers import create_renderer

    renderer = create_renderer("mujoco", env, 160, 120)
    frames = {}
    try:
        for name, qpos in {"hanging": (0, np.pi), "upright": (0, 0), "right": (1, 0)}.items():
            selected = jax.tree.map(np.asarray, renderer.select(make(env, qpos)))
            frames[name] = renderer.render(selected)
    finally:
        renderer.close()
    red = {name: np.argwhere(reds(frame)).mean(axis=0) for name, frame in frames.items()}
    assert red["hanging"][0] > red["upright"][0] + 5  # the bob, further down
    assert red["right"][1] > red["upright"][1] + 5


def reds(frame):
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    return (red > 90) & (red > 2 * green) & (red > 2 * blue)


@pytest.mark.slow
def test_it_is_solved_with_every_seed(env, tmp_path):
    config = TASKS["pendulum"].config
    with MetricsCallback(log_dir=str(tmp_path), backends=[]) as metrics:
        seeds = jax.vmap(jax.random.key)(jnp.arange(3))
        trained = jax.jit(jax.vmap(lambda seed: train(metrics, seed, config, env)))(seeds)
    assert trained.metrics is not None
    returns = jax.vmap(lambda stats: average_stats(stats)[0])(trained.metrics.episodes)
    assert (np.asarray(returns) >= TASKS["pendulum"].solved_return).all(), returns
