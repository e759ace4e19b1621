"""A training by brax's PPO as small as one can be, of which everything that is reported is kept."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import logging_to_memory
from metriplex.integrations.brax import BraxEnvironment, policy_params_fn, progress_fn

if TYPE_CHECKING:
    from pathlib import Path

    from memory import Memory


def replicate(tree: Any, devices: list[Any]) -> Any:
    """Replicate a tree over devices, as `jax.device_put_replicated` did, which brax 0.14 calls."""
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    return jax.tree.map(
        lambda leaf: jax.device_put(jnp.stack([jnp.asarray(leaf)] * len(devices)), sharding), tree
    )


def train(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Memory, list[dict[str, float]]]:
    """Trains, with a video of eight frames after each evaluation.

    Args:
        env: An environment of brax or MuJoCo Playground.
        tmp_path: Where the run is kept.
        monkeypatch: Gives brax what jax has no more.
        options: More arguments of brax's `train`.

    Returns:
        What was logged, and what brax reported.
    """
    ppo = pytest.importorskip("brax.training.agents.ppo.train")
    networks = pytest.importorskip("brax.training.agents.ppo.networks")
    if not hasattr(jax, "device_put_replicated"):
        monkeypatch.setattr(jax, "device_put_replicated", replicate, raising=False)
    reported = []
    videos: dict[str, Any] = {"video_num_steps": 8, "video_width": 64, "video_height": 48}
    shown = BraxEnvironment(env)
    with logging_to_memory(tmp_path, env=shown, video_interval=1, **videos) as (metrics, memory):
        log = progress_fn(metrics)

        def report(step: int, values: dict[str, Any]) -> None:
            reported.append({name: float(value) for name, value in values.items()})
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
            **options,
        )
        metrics.close(timeout=300)
    return memory, reported


def check(memory: Memory, reported: list[dict[str, float]]) -> None:
    """Everything that was reported was logged, and each evaluation has a video.

    Args:
        memory: What was logged.
        reported: What brax reported: an evaluation, two times its training, an evaluation.
    """
    assert memory.steps() == [0, 64, 128, 128]
    for record, values in zip(memory.records, reported, strict=True):
        assert sorted(record.values.values()) == sorted(values.values())
    ours, theirs = memory.records[1].values, reported[1]
    assert ours["episode/return"] == theirs["episode/sum_reward"]
    assert ours["episode/length"] == theirs["episode/length"]
    assert ours["train/policy_loss"] == theirs["episode/policy_loss"]
    ours, theirs = memory.records[-1].values, reported[-1]
    assert ours["eval/return"] == theirs["eval/episode_reward"]
    assert ours["train/v_loss"] == theirs["training/v_loss"]
    assert [(video.step, video.clips["mp4"].num_frames) for video in memory.videos] == [
        (0, 8),
        (128, 8),
    ]
