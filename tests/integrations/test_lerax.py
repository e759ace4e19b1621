"""lerax: its own algorithms train with the callback, alone and in a list."""

from __future__ import annotations

from typing import Any, final

import jax
import numpy as np
import pytest

from memory import host_calls, logging_to_memory, plain
from metriplex.errors import ConfigurationError

pytest.importorskip("lerax", reason="lerax is not installed")
algorithms = pytest.importorskip("lerax.algorithm")
lerax_callbacks = pytest.importorskip("lerax.callback")
base_callback = pytest.importorskip("lerax.callback.base_callback")
lerax_env = pytest.importorskip("lerax.env")
lerax_policy = pytest.importorskip("lerax.policy")
adapter = pytest.importorskip("metriplex.integrations.lerax")

ENVS, STEPS, ITERATIONS = 2, 16, 4
TOTAL = ENVS * STEPS * ITERATIONS
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def env():
    return lerax_env.CartPole()


@pytest.fixture(scope="module")
def policy(env):
    return lerax_policy.MLPActorCriticPolicy(env=env, key=jax.random.key(0))


@pytest.fixture(scope="module")
def algo():
    return algorithms.PPO(
        num_envs=ENVS, num_steps=STEPS, num_epochs=1, num_batches=2, learning_rate=1e-3
    )


@final
class Notes:
    """What a witness has seen; an object, so that lerax takes it for a constant."""

    def __init__(self):
        self.logs = []
        self.traces = 0


@final
class Witness(lerax_callbacks.AbstractIterationCallback):
    """Writes down what lerax gives to callbacks."""

    notes: Notes

    def reset(self, ctx, *, key):
        return base_callback.EmptyCallbackState()

    def on_iteration(self, ctx, *, key):
        self.notes.traces += 1
        jax.debug.callback(self.notes.logs.append, dict(ctx.training_log), ordered=True)
        return ctx.state


def test_one_record_an_iteration_with_all_that_lerax_reports_and_one_program_for_all_runs(
    tmp_path, env, policy, algo
):
    notes = Notes()
    runs, traces = [], []
    for turn in range(2):
        notes.logs.clear()
        with logging_to_memory(tmp_path / str(turn)) as (metrics, memory):
            callbacks = [adapter.LeraxCallback(metrics), Witness(notes)]
            algo.learn(env, policy, TOTAL, key=KEY, callback=callbacks)
        assert memory.steps() == [ENVS * STEPS * (i + 1) for i in range(ITERATIONS)]
        assert len(notes.logs) == ITERATIONS
        for name in ("loss", "policy_loss", "value_loss", "entropy_loss", "approx_kl"):
            np.testing.assert_array_equal(
                memory.values(f"train/{name}"), [float(log[name]) for log in notes.logs]
            )
        np.testing.assert_allclose(memory.values("train/learning_rate"), [1e-3] * ITERATIONS)
        # a step of CartPole gives 1
        assert memory.values("episode/return") == memory.values("episode/length")
        assert float(memory.values("episode/return")[-1]) > 8
        runs.append(plain(memory.records))
        traces.append(notes.traces)
    assert runs[0] == runs[1]
    assert traces[0] == traces[1]  # the second training was not traced again


def test_one_host_call_an_iteration_and_parameters_are_the_same(
    tmp_path, env, policy, algo, monkeypatch
):
    blocks = host_calls(monkeypatch)
    with logging_to_memory(tmp_path) as (metrics, _):
        ours = algo.learn(env, policy, TOTAL, key=KEY, callback=adapter.LeraxCallback(metrics))
    assert len(blocks) == ITERATIONS + 2  # start and end
    plainly = algo.learn(env, policy, TOTAL, key=KEY)
    arrays = [jax.tree.leaves(one) for one in (ours, plainly)]
    for mine, theirs in zip(*arrays, strict=True):
        if isinstance(mine, jax.Array):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_seeds_are_lanes(tmp_path, env, policy, algo):
    with logging_to_memory(tmp_path) as (metrics, memory):
        callback = adapter.LeraxCallback(metrics)

        def loss(key):
            algo.learn(env, policy, TOTAL, key=key, callback=callback)
            return jax.random.uniform(key)

        jax.vmap(loss)(jax.random.split(KEY, 3))
    assert memory.lanes == [0, 1, 2]
    assert memory.steps(2) == [ENVS * STEPS * (i + 1) for i in range(ITERATIONS)]
    assert len({memory.values("train/loss", lane)[-1] for lane in range(3)}) == 3


def test_one_environment_and_a_buffer(tmp_path, env, policy):
    algo = algorithms.PPO(num_envs=1, num_steps=STEPS, num_epochs=1, num_batches=2)
    with logging_to_memory(tmp_path, buffer=3) as (metrics, memory):
        algo.learn(env, policy, 4 * STEPS, key=KEY, callback=adapter.LeraxCallback(metrics))
    assert memory.steps() == [STEPS * (i + 1) for i in range(4)]


def test_hyper_parameters_of_algorithm_and_policy(tmp_path, policy, algo):
    with logging_to_memory(tmp_path, hparams={"ppo": algo, "policy": policy}) as (_, memory):
        pass
    (hparams,) = memory.hparams
    assert hparams["ppo/num_steps"] == STEPS
    assert hparams["ppo/gamma"] == 0.99
    assert hparams["policy/encoder/width_size"] == policy.encoder.width_size
    assert hparams["policy/encoder/layers/0/weight"] == "float32[64, 4]"
    assert {name: value for name, value in hparams.items() if len(str(value)) > 300} == {}


def test_its_environments_are_shown(tmp_path, env, policy, algo):
    pytest.importorskip("metriplex_pygame")
    options: dict[str, Any] = {
        "video_num_steps": 6,
        "video_width": 64,
        "video_height": 48,
        "video_interval": 4,
    }
    with logging_to_memory(tmp_path, env=env, policy=policy, video_worker="thread", **options) as (
        metrics,
        memory,
    ):
        algo.learn(env, policy, TOTAL, key=KEY, callback=adapter.LeraxCallback(metrics))
        metrics.close(timeout=300)
    (video,) = memory.videos
    assert (video.step, video.clips["mp4"].num_frames) == (ENVS * STEPS, 6)


def test_statistics_of_an_iteration_can_not_be_had(tmp_path):
    with (
        logging_to_memory(tmp_path, episode_stats=True) as (metrics, _),
        pytest.raises(ConfigurationError, match="`episode_stats=True` can't be had from lerax"),
    ):
        adapter.LeraxCallback(metrics)
