"""Measure the cost of one `on_iteration` with 20 scalars for the training thread.

A compiled scan does nothing but log. Its wall time per iteration, until its result is ready, is
compared with that of a scan that calls one no-op `jax.debug.callback` with a vector of as many
words as metriplex's row: the minimal cost of a logger that calls the host each iteration. The
receiver thread and a backend's worker run and compete for the interpreter's lock. The second column
is the time per iteration until all records are delivered.

    python benchmarks/iteration_cost.py [--short]
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from _measure import NoOpBackend, is_short, print_machine, print_table, ratio, take_turns

from metriplex import MetricsCallback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NUM_SCALARS = 20
ROW_WORDS = 36
"""Words of metriplex's row: 12 of the header, the scalars, two averages and their validity."""
BASE = "bare `debug.callback`"


def training_log(values: jax.Array) -> dict[str, jax.Array]:
    return {f"metric_{index:02d}": values[index] for index in range(NUM_SCALARS)}


@functools.partial(jax.jit, static_argnames="iterations")
def bare(iterations: int) -> jax.Array:
    def iteration(row: jax.Array, _: None) -> tuple[jax.Array, None]:
        row = row + 1
        jax.debug.callback(lambda _: None, row)
        return row, None

    return jax.lax.scan(iteration, jnp.zeros(ROW_WORDS, jnp.uint32), length=iterations)[0]


@functools.partial(jax.jit, static_argnames="iterations")
def logged(metrics: MetricsCallback, iterations: int) -> Any:
    def iteration(carry: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], None]:
        state, values = carry
        values = values + 1
        return (metrics.on_iteration(state, training_log=training_log(values)), values), None

    carry = metrics.init(4), jnp.zeros(NUM_SCALARS)
    (state, values), _ = jax.lax.scan(iteration, carry, length=iterations)
    return metrics.on_training_end(state), values


def time_bare(iterations: int, delivered: dict[str, list[float]]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(bare(iterations))
    seconds = time.perf_counter() - start
    jax.effects_barrier()
    delivered.setdefault(BASE, []).append(time.perf_counter() - start)
    return seconds


def time_logged(
    name: str, iterations: int, delivered: dict[str, list[float]], **options: Any
) -> float:
    with (
        tempfile.TemporaryDirectory() as log_dir,
        MetricsCallback(log_dir=log_dir, queue_size=10 * iterations, **options) as metrics,
    ):
        start = time.perf_counter()
        jax.block_until_ready(logged(metrics, iterations))
        seconds = time.perf_counter() - start
        metrics.flush()
        delivered.setdefault(name, []).append(time.perf_counter() - start)
        if sum(delivery.undelivered for delivery in metrics.deliveries()):
            raise AssertionError("records were lost, so the times mean nothing")
    return seconds


def main() -> None:
    short = is_short(__doc__)
    iterations, rounds = (1_000, 2) if short else (10_000, 15)
    print_machine("jax", "jaxlib")

    delivered: dict[str, list[float]] = {}
    options: dict[str, dict[str, Any]] = {
        "metriplex, no backend": {"backends": []},
        "metriplex, no-op backend": {"backends": NoOpBackend()},
        "metriplex, `buffer=100`, no backend": {"backends": [], "buffer": 100},
        "metriplex, `buffer=100`, no-op backend": {"backends": NoOpBackend(), "buffer": 100},
    }
    contestants: dict[str, Callable[[], float]] = {
        BASE: functools.partial(time_bare, iterations, delivered)
    }
    for name, chosen in options.items():
        contestants[name] = functools.partial(time_logged, name, iterations, delivered, **chosen)
    results = take_turns(contestants, rounds)

    def microseconds(seconds: Sequence[float]) -> str:
        return f"{statistics.median(seconds) / iterations * 1e6:.1f}"

    print(f"{iterations} iterations of {NUM_SCALARS} scalars; medians of {rounds} rounds\n")
    print_table(
        ["", "µs an iteration", "ratio", "µs until delivered"],
        [
            [
                name,
                microseconds(seconds),
                f"{ratio(results, name, BASE):.2f}",
                microseconds(delivered[name][1:]),
            ]
            for name, seconds in results.items()
        ],
    )


if __name__ == "__main__":
    main()
