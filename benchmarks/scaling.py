"""Measure the cost of logging for growing numbers of environments, backends and vmapped seeds.

A compiled scan does nothing but log 20 scalars per iteration; times are per iteration, until the
result is ready. Constant times are best. `on_step` computes the same for each environment, so its
column also shows the cost of one environment. With seeds, metriplex makes one host call per
iteration for all lanes; the peer, a `jax.debug.callback` with the values in one vector, makes one
per lane.

    python benchmarks/scaling.py [--short]
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
    from collections.abc import Callable, Mapping

NUM_SCALARS = 20
EPISODE_LENGTH = 200


def training_log(values: jax.Array) -> dict[str, jax.Array]:
    return {f"metric_{index:02d}": values[index] for index in range(NUM_SCALARS)}


@functools.partial(jax.jit, static_argnames=("num_envs", "iterations", "stepping"))
def train(metrics: MetricsCallback, num_envs: int, iterations: int, stepping: bool) -> Any:
    def iteration(carry: tuple[Any, jax.Array], index: jax.Array) -> tuple[Any, None]:
        state, values = carry
        values = values + 1
        if stepping:
            done = (jnp.arange(num_envs) + index) % EPISODE_LENGTH == 0
            state = metrics.on_step(state, jnp.ones(num_envs), done)
        return (metrics.on_iteration(state, training_log=training_log(values)), values), None

    carry = metrics.init(num_envs), jnp.zeros(NUM_SCALARS)
    return jax.lax.scan(iteration, carry, jnp.arange(iterations))[0]


@functools.partial(jax.jit, static_argnames="iterations")
def train_seeds(metrics: MetricsCallback, seeds: jax.Array, iterations: int) -> Any:
    def one(seed: jax.Array) -> Any:
        def iteration(carry: tuple[Any, jax.Array], _: None) -> tuple[Any, None]:
            state, values = carry
            values = values + 1
            return (metrics.on_iteration(state, training_log=training_log(values)), values), None

        carry = metrics.init(4), jnp.zeros(NUM_SCALARS) + seed
        return jax.lax.scan(iteration, carry, length=iterations)[0]

    return jax.vmap(one)(seeds)


@functools.partial(jax.jit, static_argnames="iterations")
def train_seeds_by_peer(seeds: jax.Array, iterations: int) -> Any:
    def one(seed: jax.Array) -> Any:
        def iteration(values: jax.Array, _: None) -> tuple[jax.Array, None]:
            values = values + 1
            jax.debug.callback(lambda _: None, values)
            return values, None

        return jax.lax.scan(iteration, jnp.zeros(NUM_SCALARS) + seed, length=iterations)[0]

    return jax.vmap(one)(seeds)


def time_metriplex(program: Callable[[MetricsCallback], Any], backends: int = 1) -> float:
    with (
        tempfile.TemporaryDirectory() as log_dir,
        MetricsCallback(
            log_dir=log_dir, backends=[NoOpBackend() for _ in range(backends)], queue_size=2**20
        ) as metrics,
    ):
        start = time.perf_counter()
        jax.block_until_ready(program(metrics))
        return time.perf_counter() - start


def time_peer(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program())
    seconds = time.perf_counter() - start
    jax.effects_barrier()
    return seconds


def measure(
    contestants: Mapping[str, Callable[[], float]], iterations: int, rounds: int
) -> tuple[list[str], list[str]]:
    """Return µs per iteration, and the ratio to the first contestant."""
    results = take_turns(contestants, rounds)
    first = next(iter(contestants))
    times = [f"{statistics.median(seconds) / iterations * 1e6:.0f}" for seconds in results.values()]
    return times, [f"{ratio(results, name, first):.2f}" for name in contestants]


def environments(numbers: list[int], iterations: int, rounds: int) -> None:
    columns = []
    for stepping in (False, True):
        contestants = {
            str(number): functools.partial(
                time_metriplex,
                functools.partial(train, num_envs=number, iterations=iterations, stepping=stepping),
            )
            for number in numbers
        }
        columns += measure(contestants, iterations, rounds)
    print_table(
        ["environments", "`on_iteration`: µs", "ratio", "`on_step` too: µs", "ratio"],
        [[f"{number:,}", *cells] for number, *cells in zip(numbers, *columns, strict=True)],
    )


def backends(numbers: list[int], iterations: int, rounds: int) -> None:
    program = functools.partial(train, num_envs=4, iterations=iterations, stepping=False)
    contestants = {
        str(number): functools.partial(time_metriplex, program, number) for number in numbers
    }
    columns = measure(contestants, iterations, rounds)
    print_table(
        ["no-op backends", "µs an iteration", "ratio"],
        [[str(number), *cells] for number, *cells in zip(numbers, *columns, strict=True)],
    )


def seeds(numbers: list[int], peers: list[int], iterations: int, rounds: int) -> None:
    contestants: dict[str, Callable[[], float]] = {}
    for number in numbers:
        program = functools.partial(train_seeds, seeds=jnp.arange(number), iterations=iterations)
        contestants[f"{number}, metriplex"] = functools.partial(time_metriplex, program)
    for number in peers:
        peer = functools.partial(train_seeds_by_peer, jnp.arange(number), iterations)
        contestants[f"{number}, one callback a lane"] = functools.partial(time_peer, peer)
    columns = measure(contestants, iterations, rounds)
    print_table(
        ["seeds", "µs an iteration", "ratio"],
        [[name, *cells] for name, *cells in zip(contestants, *columns, strict=True)],
    )


def main() -> None:
    short = is_short(__doc__)
    print_machine("jax", "jaxlib")
    if short:
        environments([1, 65_536], 100, 1)
        backends([1, 8], 100, 1)
        seeds([1, 256], [1, 8], 20, 1)
    else:
        environments([1, 16, 256, 4096, 65_536], 3000, 9)
        backends([1, 2, 4, 8], 3000, 15)
        seeds([1, 16, 256], [1, 16, 64], 300, 7)


if __name__ == "__main__":
    main()
