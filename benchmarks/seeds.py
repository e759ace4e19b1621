"""What logging costs a training of many seeds, and a program on eight devices.

Seeds: PureJaxRL-style PPO on CartPole (`metriplex.demo.ppo`), all seeds by one `vmap`, with logging
over without; also with statistics over the seeds. Devices: a program under `shard_map` over eight
devices of this host that only logs, over the same program with a bare `jax.debug.callback` of as
many words, called by the first device.

    python benchmarks/seeds.py [--short]
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from typing import Any

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import jax.numpy as jnp
from _measure import (
    NoOpBackend,
    is_short,
    print_machine,
    print_table,
    ratio,
    take_turns,
)
from jax.sharding import PartitionSpec as P

from metriplex import MetricsCallback
from metriplex.demo.ppo import Config, train

NUM_SCALARS = 20
HEADER_WORDS = 9


def time_run(program: Any, *arguments: Any, **options: Any) -> float:
    """Seconds until the program's result is ready, with a callback that has a no-op backend."""
    with (
        tempfile.TemporaryDirectory() as log_dir,
        MetricsCallback(
            log_dir=log_dir, backends=NoOpBackend(), journal=False, queue_size=2**20, **options
        ) as metrics,
    ):
        start = time.perf_counter()
        jax.block_until_ready(program(metrics, *arguments))
        return time.perf_counter() - start


def time_bare(program: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    seconds = time.perf_counter() - start
    jax.effects_barrier()
    return seconds


def seeds(number: int, config: Config, rounds: int) -> None:
    keys = jax.random.split(jax.random.key(0), number)
    logging = jax.jit(
        lambda metrics, keys: jax.vmap(lambda key: train(metrics, key, config).policy)(keys)
    )
    silent = jax.jit(jax.vmap(lambda key: train(None, key, config).policy))
    contestants = {
        "no logging": functools.partial(time_bare, silent, keys),
        "metriplex": functools.partial(time_run, logging, keys),
        "metriplex, `aggregate=True`": functools.partial(time_run, logging, keys, aggregate=True),
    }
    show(f"{number} seeds of PPO", contestants, config.num_iterations, rounds)


def devices(iterations: int, rounds: int) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    values = jnp.arange(8.0)

    def spread(program: Any) -> Any:
        return jax.shard_map(program, mesh=mesh, in_specs=P("x"), out_specs=P("x"))

    def logs(metrics: MetricsCallback, own: jax.Array) -> jax.Array:
        def iterate(carry: Any, _: None) -> Any:
            state, own = carry
            log = {f"metric_{index:02d}": own[0] for index in range(NUM_SCALARS)}
            return (metrics.on_iteration(state, training_log=log), own + 1), None

        return jax.lax.scan(iterate, (metrics.init(1), own), length=iterations)[0][1]

    def calls(own: jax.Array) -> jax.Array:
        def iterate(own: jax.Array, _: None) -> Any:
            packed = jnp.broadcast_to(jax.lax.pmean(own[0], "x"), NUM_SCALARS + HEADER_WORDS)
            jax.lax.cond(
                jax.lax.axis_index("x") == 0,
                lambda packed: jax.debug.callback(lambda _: None, packed),
                lambda _: None,
                packed,
            )
            return own + 1, None

        return jax.lax.scan(iterate, own, length=iterations)[0]

    logging = jax.jit(lambda metrics, values: spread(functools.partial(logs, metrics))(values))
    contestants = {
        "bare `debug.callback`": functools.partial(time_bare, jax.jit(spread(calls)), values),
        "metriplex": functools.partial(time_run, logging, values),
    }
    show("8 devices, `shard_map`", contestants, iterations, rounds)


def show(title: str, contestants: dict[str, Any], iterations: int, rounds: int) -> None:
    results = take_turns(contestants, rounds)
    first = next(iter(contestants))
    print_table(
        [title, "ms an iteration", "ratio"],
        [
            [
                name,
                f"{statistics.median(found) / iterations * 1e3:.3f}",
                f"{ratio(results, name, first):.3f}",
            ]
            for name, found in results.items()
        ],
    )


def main() -> None:
    short = is_short(__doc__)
    print_machine("jax", "jaxlib")
    if short:
        seeds(8, Config(num_envs=4, num_iterations=3, num_epochs=1), 1)
        devices(30, 1)
    else:
        seeds(256, Config(num_envs=4, num_iterations=20, num_epochs=4), 7)
        devices(1000, 9)


if __name__ == "__main__":
    main()
