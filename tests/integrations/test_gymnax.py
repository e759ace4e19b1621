"""gymnax: records equal the reports of its own wrapper, and its environments are drawn."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import Memory, logging_to_memory
from metriplex.integrations.gymnax import GymnaxEnvironment

gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed")
pytest.importorskip("gymnax.wrappers")
pytestmark = [  # of gymnax's own code
    pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning"),
    pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning"),
]

ENVS, TIME, ITERATIONS = 3, 40, 4


def make_train(env, params):
    """Return a program with random actions that returns the reports of gymnax's `LogWrapper`."""
    env = gymnax.wrappers.LogWrapper(env)

    def train(metrics, key):
        def step(carry, key):
            act, step = jax.random.split(key)
            action = jax.vmap(env.action_space(params).sample)(jax.random.split(act, ENVS))
            keys = jax.random.split(step, ENVS)
            _, carry, reward, *ends, info = jax.vmap(env.step, (0, 0, 0, None))(
                keys, carry, action, params
            )
            return carry, (reward, jnp.stack(ends).any(0), info["returned_episode_returns"])

        def iteration(carry, key):
            env_state, logging = carry
            env_state, (reward, done, returns) = jax.lax.scan(
                step, env_state, jax.random.split(key, TIME)
            )
            logging = metrics.on_step(logging, reward, done)
            logging = metrics.on_iteration(logging, training_log={"reward": reward.mean()}, key=key)
            return (env_state, logging), (reward, done, returns)

        _, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key, ENVS), params)
        start = (env_state, metrics.init(ENVS))
        return jax.lax.scan(iteration, start, jax.random.split(key, ITERATIONS))[1]

    return train


def newest_returns(done, returns):
    """Return the mean newest return over environments, after every iteration."""
    newest = np.full(ENVS, np.nan)
    means = []
    for ends, reported in zip(done, returns, strict=True):
        for ended, value in zip(ends, reported, strict=True):
            newest = np.where(ended, value, newest)
        means.append(np.nanmean(newest))
    return means


def test_episodes_are_those_that_gymnax_reports_for_every_seed(tmp_path):
    env, params = gymnax.make("CartPole-v1")
    train = jax.jit(jax.vmap(make_train(env, params), (None, 0)))
    with logging_to_memory(tmp_path, alpha=1.0) as (metrics, memory):
        reward, done, returns = jax.device_get(train(metrics, jax.random.split(jax.random.key(0))))
    assert memory.lanes == [0, 1]
    for lane in memory.lanes:
        assert memory.steps(lane) == [ENVS * TIME * (i + 1) for i in range(ITERATIONS)]
        np.testing.assert_allclose(
            memory.values("episode/return", lane), newest_returns(done[lane], returns[lane])
        )
        np.testing.assert_allclose(
            memory.values("train/reward", lane), reward[lane].mean((1, 2)), rtol=1e-6
        )


def rollout(env: GymnaxEnvironment, num_steps: int = 4):
    """Return the drawn parts of the states of an episode with random actions."""
    space = env._env.action_space(env._params)

    def step(state, key):
        drawn = env.to_draw(state)
        return env.transition(state, space.sample(key), key=key), drawn

    state = env.initial(key=jax.random.key(1))
    state, drawn = jax.lax.scan(step, state, jax.random.split(jax.random.key(2), num_steps))
    return state, [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), drawn) for i in range(4)]


DRAWN = [
    *("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1"),
    *("Asterix-MinAtar", "Breakout-MinAtar", "Freeway-MinAtar", "SpaceInvaders-MinAtar"),
    *("Catch-bsuite", "DeepSea-bsuite"),
]


@pytest.mark.parametrize("name", DRAWN)
def test_environments_are_drawn_without_gymnax(name):
    metriplex_pygame = pytest.importorskip("metriplex_pygame")
    env = GymnaxEnvironment(*gymnax.make(name))
    renderer = metriplex_pygame.PygameRendererPlugin().make_renderer(env=env, width=90, height=60)
    renderer = pickle.loads(pickle.dumps(renderer))
    assert renderer._env._env is None
    _, states = rollout(env)
    frames = [np.array(renderer.render(state)) for state in states]
    assert {frame.shape for frame in frames} == {(60, 90, 3)}
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 1
    assert any((frame != frames[0]).any() for frame in frames[1:])


def test_a_grid_shows_the_last_channel_that_is_not_empty():
    env, params = gymnax.make("Breakout-MinAtar")
    shown = GymnaxEnvironment(env, params)
    state = shown.initial(key=jax.random.key(0))
    observation = np.asarray(env.get_obs(state))
    cells = np.asarray(shown.to_draw(state))
    assert cells.dtype == np.uint8
    for row, column in np.ndindex(10, 10):
        channels = np.flatnonzero(observation[row, column])
        assert cells[row, column] == (channels[-1] + 1 if len(channels) else 0)


def test_an_episode_ends_at_the_step_limit():
    env, params = gymnax.make("Pendulum-v1")
    shown = GymnaxEnvironment(env, params.replace(max_steps_in_episode=4))
    state, _ = rollout(shown, 4)
    assert bool(shown.terminal(state, key=None) | shown.truncate(state))
    unlimited = GymnaxEnvironment(env, params)
    state, _ = rollout(unlimited, 4)
    assert not bool(unlimited.terminal(state, key=None) | unlimited.truncate(state))


def test_an_environment_without_a_grid_has_no_picture_but_a_name():
    env = GymnaxEnvironment(*gymnax.make("Swimmer-misc"))
    assert env.name == "Swimmer-misc"
    assert not hasattr(env, "render")


def test_a_video_arrives_with_the_policy_played(tmp_path):
    pytest.importorskip("metriplex_pygame")
    env, params = gymnax.make("CartPole-v1")
    options: dict[str, Any] = {
        "env": GymnaxEnvironment(env, params),
        "video_interval": 1,
        "video_num_steps": 12,
        "video_width": 64,
        "video_height": 48,
    }

    @jax.jit
    def train(metrics):
        return metrics.on_iteration(
            metrics.init(1), policy=lambda observation: (observation[2] > 0).astype(jnp.int32)
        )

    with logging_to_memory(tmp_path, Memory(), **options) as (metrics, memory):
        train(metrics)
        metrics.close(timeout=300)
    (video,) = memory.videos
    clip = video.clips["mp4"]
    assert (clip.num_frames, clip.width, clip.height) == (12, 64, 48)


def test_importing_the_adapter_imports_no_library():
    program = (
        "import sys, metriplex.integrations.gymnax, metriplex.integrations.pictures;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not {"gymnax", "flax", "matplotlib", "pygame"} & set(loaded.stdout.decode().split())
