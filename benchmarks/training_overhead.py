"""Measure the wall time that logging adds to a training: PPO on CartPole, 20 scalars per iteration.

The same program runs with and without logging to TensorBoard; compilation is not measured. The
peers log the same 20 scalars of the same training with tensorboardX: one with a
`jax.debug.callback` per scalar that calls `SummaryWriter.add_scalar`, the other with one ordered
`jax.debug.callback` of a dictionary, whose host function calls `add_scalar` for each value.

    python benchmarks/training_overhead.py [--short]
"""

from __future__ import annotations

import functools
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

import jax
import jax.numpy as jnp
from _measure import is_short, print_machine, print_table, ratio, take_turns
from tensorboardX import SummaryWriter

from metriplex import (
    EpisodeStats,
    MetricsCallback,
    MetricsState,
    average_stats,
    init_stats,
    learning_rates,
    update_stats,
)
from metriplex.demo.ppo import Config, train

if TYPE_CHECKING:
    from collections.abc import Mapping

NUM_SCALARS = 20
NUM_EPISODE_SCALARS = 2
NUM_ENVS = 4
BASE = "no logging"

Log: TypeAlias = dict[str, Any]


def padded(log: Log, others: int) -> Log:
    """Return PPO's training log, padded so that `NUM_SCALARS` values are logged in total."""
    missing = NUM_SCALARS - len(log) - others
    return log | {f"padding_{index:02d}": log["loss"] + index for index in range(missing)}


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Padded:
    """A `MetricsCallback` whose training log is padded."""

    metrics: MetricsCallback

    def init(self, num_envs: int) -> MetricsState:
        return self.metrics.init(num_envs)

    def on_training_start(self, state: MetricsState) -> MetricsState:
        return self.metrics.on_training_start(state)

    def on_step(self, state: MetricsState, reward: jax.Array, **ends: jax.Array) -> MetricsState:
        return self.metrics.on_step(state, reward, **ends)

    def on_iteration(self, state: MetricsState, *, training_log: Log, **rest: Any) -> MetricsState:
        log = padded(training_log, others=NUM_EPISODE_SCALARS + 1)
        return self.metrics.on_iteration(state, training_log=log, **rest)

    def on_training_end(self, state: MetricsState) -> MetricsState:
        return self.metrics.on_training_end(state)


PeerState: TypeAlias = tuple[EpisodeStats, jax.Array]

_writer: SummaryWriter
"""Writer of the peers in the current round; a global, so that one program serves all rounds."""


def _add_scalar(tag: str, value: jax.Array, step: jax.Array) -> None:
    _writer.add_scalar(tag, float(value), int(step))


def _add_scalars(values: Mapping[str, jax.Array], step: jax.Array) -> None:
    for tag, value in values.items():
        _writer.add_scalar(tag, float(value), int(step))


@final
@jax.tree_util.register_static
@dataclass(frozen=True)
class Peer:
    """Log the same scalars and episode statistics as metriplex with tensorboardX."""

    one_callback: bool

    def init(self, num_envs: int) -> PeerState:
        return init_stats(num_envs, window=False), jnp.int32(0)

    def on_training_start(self, state: PeerState) -> PeerState:
        return state

    def on_step(
        self, state: PeerState, reward: jax.Array, *, terminated: jax.Array, truncated: jax.Array
    ) -> PeerState:
        stats, step = state
        done = jnp.logical_or(terminated, truncated)
        return update_stats(stats, reward, done, alpha=0.9), step + reward.size

    def on_iteration(
        self, state: PeerState, *, training_log: Log, opt_state: Any, **_: Any
    ) -> PeerState:
        stats, step = state
        mean_return, mean_length, _finished = average_stats(stats)
        log = padded(training_log, others=NUM_EPISODE_SCALARS + 1)
        values = {
            "episode/return": mean_return,
            "episode/length": mean_length,
            **{f"train/{name}": value for name, value in log.items()},
            **learning_rates(opt_state),
        }
        if self.one_callback:
            jax.debug.callback(_add_scalars, values, step, ordered=True)
        else:
            for tag, value in values.items():
                jax.debug.callback(functools.partial(_add_scalar, tag), value, step)
        return state

    def on_training_end(self, state: PeerState) -> PeerState:
        return state


def time_unlogged(config: Config) -> float:
    start = time.perf_counter()
    jax.block_until_ready(train(None, jax.random.key(0), config))
    return time.perf_counter() - start


def time_metriplex(config: Config, flushed: list[float], buffer: int) -> float:
    with (
        tempfile.TemporaryDirectory() as log_dir,
        MetricsCallback(log_dir=log_dir, backends="tensorboard", buffer=buffer) as metrics,
    ):
        logger: Any = Padded(metrics)
        start = time.perf_counter()
        jax.block_until_ready(train(logger, jax.random.key(0), config))
        seconds = time.perf_counter() - start
        metrics.flush()
        flushed.append(time.perf_counter() - start)
    return seconds


def time_peer(config: Config, flushed: list[float], peer: Any) -> float:
    global _writer
    with tempfile.TemporaryDirectory() as log_dir:
        _writer = SummaryWriter(log_dir)
        start = time.perf_counter()
        jax.block_until_ready(train(peer, jax.random.key(0), config))
        seconds = time.perf_counter() - start
        jax.effects_barrier()
        _writer.close()
        flushed.append(time.perf_counter() - start)
    return seconds


def compare(rollout_length: int, iterations: int, rounds: int, most: int | None = None) -> None:
    config = Config(num_envs=NUM_ENVS, rollout_length=rollout_length, num_iterations=iterations)
    runs = {
        "metriplex": functools.partial(time_metriplex, config, buffer=0),
        "metriplex, `buffer=100`": functools.partial(time_metriplex, config, buffer=100),
        "20 callbacks, a scalar each": functools.partial(
            time_peer, config, peer=Peer(one_callback=False)
        ),
        "1 ordered callback, a dictionary": functools.partial(
            time_peer, config, peer=Peer(one_callback=True)
        ),
    }
    flushed: dict[str, list[float]] = {name: [] for name in runs}
    contestants = {BASE: functools.partial(time_unlogged, config)} | {
        name: functools.partial(run, flushed=flushed[name]) for name, run in runs.items()
    }
    # Each contestant is a program of its own to compile.
    contestants = dict(itertools.islice(contestants.items(), most))
    results = take_turns(contestants, rounds)

    print(
        f"{NUM_ENVS} environments x {rollout_length} steps, {iterations} iterations; medians of "
        f"{rounds} rounds\n"
    )
    flushed[BASE] = [0.0, *results[BASE]]
    print_table(
        ["", "ms an iteration", "ratio", "ms until on disk"],
        [
            [
                name,
                f"{statistics.median(seconds) / iterations * 1e3:.3f}",
                f"{ratio(results, name, BASE):.3f}",
                f"{statistics.median(flushed[name][1:]) / iterations * 1e3:.3f}",
            ]
            for name, seconds in results.items()
        ],
    )


def main() -> None:
    short = is_short(__doc__)
    print_machine("jax", "jaxlib", "tensorboardX")
    if short:
        compare(rollout_length=32, iterations=10, rounds=1, most=2)
    else:
        compare(rollout_length=128, iterations=200, rounds=11)
        compare(rollout_length=32, iterations=400, rounds=11)


if __name__ == "__main__":
    main()
