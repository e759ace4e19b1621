"""Gymnasium: the averages equal those of the episodes that its own wrapper reports."""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp
import numpy as np
import pytest

from memory import logging_to_memory
from metriplex import average_stats, init_stats, update_stats
from metriplex.errors import LoggingError
from metriplex.integrations.gymnasium import VectorEpisodes


@final
class Three:
    """A vector environment with only the attributes that are read."""

    num_envs = 3

    def __init__(self, mode: str) -> None:
        self.metadata = {"autoreset_mode": mode}


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_returns_and_lengths_are_those_that_gymnasium_reports(mode: str, tmp_path: Any) -> None:
    gym = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    autoreset = gym.vector.AutoresetMode[mode]
    envs = gym.make_vec(
        "CartPole-v1",
        3,
        "sync",
        vector_kwargs={"autoreset_mode": autoreset},
        wrappers=[gym.wrappers.RecordEpisodeStatistics],
    )
    envs.reset(seed=0)
    envs.action_space.seed(0)
    ours = VectorEpisodes(envs, alpha=1.0)
    newest = np.full((2, 3), np.nan)
    with logging_to_memory(tmp_path) as (metrics, memory):
        for _ in range(120):
            _, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
            ours.update(reward, terminated, truncated)
            done = terminated | truncated
            if done.any():
                report = info.get("episode") or info["final_info"]["episode"]
                newest = np.where(done, np.stack([report["r"], report["l"]]), newest)
                expected = np.nanmean(newest, axis=1)
                assert list(ours.averages().values()) == pytest.approx(expected.tolist())
                metrics.log(ours.steps, {"episode": ours.averages()})
    envs.close()
    assert memory.values("episode/return")[-1] == pytest.approx(np.nanmean(newest[0]))
    assert memory.values("episode/length")[-1] == pytest.approx(np.nanmean(newest[1]))
    assert len(memory.records) > 5


def test_averages_are_those_of_compiled_code() -> None:
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(50, 3)).astype(np.float32)
    done = rng.random((50, 3)) < 0.2
    ours = VectorEpisodes(Three("AutoresetMode.SAME_STEP"))
    assert ours.averages() == {}
    for one, end in zip(reward, done, strict=True):
        ours.update(one, end, np.zeros(3, bool))
    stats = update_stats(
        init_stats(3, window=False), jnp.asarray(reward), jnp.asarray(done), alpha=0.9
    )
    mean_return, mean_length, _ = average_stats(stats)
    assert ours.averages() == pytest.approx(
        {"return": float(mean_return), "length": float(mean_length)}, rel=1e-4
    )
    assert ours.steps == 150


def test_a_step_that_resets_is_not_counted() -> None:
    ours = VectorEpisodes(Three("AutoresetMode.NEXT_STEP"), alpha=1.0)
    never = np.zeros(3, bool)
    for done in ([True, False, False], [False] * 3, [False] * 3, [True, False, False]):
        ours.update(np.ones(3), np.array(done), never)
    assert ours.averages() == {"return": 2.0, "length": 2.0}
    assert ours.steps == 11


def test_a_wrong_shape_raises() -> None:
    with pytest.raises(LoggingError, match=r"`reward` has shape \[2\], and .* 3 sub-environments"):
        VectorEpisodes(Three("NEXT_STEP")).update(np.ones(2), np.zeros(3, bool), np.zeros(3, bool))
