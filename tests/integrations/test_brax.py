"""brax: its own PPO trains, and what it reports is what arrives; its environments are drawn."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import logging_to_memory
from metriplex.integrations.brax import BraxEnvironment, policy_params_fn, progress_fn

envs = pytest.importorskip("brax.envs", reason="brax is not installed")
ppo = pytest.importorskip("brax.training.agents.ppo.train")
networks = pytest.importorskip("brax.training.agents.ppo.networks")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of brax's own code
]


def replicate(tree: Any, devices: list[Any]) -> Any:
    """What jax says to use in the place of its `device_put_replicated`, which brax 0.14 calls."""
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    return jax.tree.map(
        lambda leaf: jax.device_put(jnp.stack([jnp.asarray(leaf)] * len(devices)), sharding), tree
    )


def test_what_ppo_reports_arrives_and_videos_show_its_policies(tmp_path, monkeypatch):
    if not hasattr(jax, "device_put_replicated"):
        monkeypatch.setattr(jax, "device_put_replicated", replicate, raising=False)
    reported = []
    env = envs.get_environment("inverted_pendulum", backend="positional")
    options: dict[str, Any] = {
        "video_interval": 1,
        "video_num_steps": 8,
        "video_width": 64,
        "video_height": 48,
    }
    has_renderer = pytest.importorskip("metriplex_mujoco") is not None
    with logging_to_memory(tmp_path, env=BraxEnvironment(env), **options) as (metrics, memory):
        log = progress_fn(metrics)

        def report(step, values):
            reported.append((step, {name: float(value) for name, value in values.items()}))
            log(step, values)

        ppo.train(
            environment=env,
            num_timesteps=128,
            episode_length=16,
            num_envs=4,
            batch_size=4,
            num_minibatches=2,
            unroll_length=8,
            num_updates_per_batch=1,
            num_evals=2,
            num_eval_envs=4,
            max_devices_per_host=1,
            log_training_metrics=True,
            progress_fn=report,
            policy_params_fn=policy_params_fn(metrics),
            network_factory=functools.partial(
                networks.make_ppo_networks,
                policy_hidden_layer_sizes=(8,),
                value_hidden_layer_sizes=(8,),
            ),
        )
        metrics.close(timeout=300)
    assert memory.steps() == [step for step, _ in reported] == [0, 64, 128, 128]
    for record, (_, values) in zip(memory.records, reported, strict=True):
        assert len(record.values) == len(values)
    training, evaluation = reported[1][1], reported[-1][1]
    assert memory.records[1].values["episode/return"] == training["episode/sum_reward"]
    assert memory.records[1].values["episode/length"] == training["episode/length"]
    assert memory.records[1].values["train/policy_loss"] == training["episode/policy_loss"]
    assert memory.records[-1].values["eval/return"] == evaluation["eval/episode_reward"]
    assert memory.records[-1].values["train/v_loss"] == evaluation["training/v_loss"]
    assert has_renderer
    assert [(video.step, video.clips["mp4"].num_frames) for video in memory.videos] == [
        (0, 8),
        (128, 8),
    ]


def test_positions_are_those_of_the_simulation_in_the_order_of_mujoco():
    env = BraxEnvironment(envs.get_environment("inverted_pendulum", backend="positional"))
    assert env.name == "InvertedPendulum"
    state = env.initial(key=jax.random.key(0))
    assert env.mujoco_model.nq == len(state.data.qpos) == 2
    np.testing.assert_array_equal(state.data.qpos, env.observation(state, key=None)[:2])
    assert not bool(env.terminal(state, key=None))
