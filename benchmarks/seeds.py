"""Measure the cost of logging for a training of many seeds, and for a program on eight devices.

Seeds: PureJaxRL-style PPO on CartPole (`metriplex.demo.ppo`) with one `vmap` over all seeds. The
result is the time with logging, also with statistics over the seeds, relative to the time without.
Devices, under `shard_map` over eight devices of this host: the same PPO, with environments and a
learner per device, and a program that does nothing but log. Both are relative to the same program
with a `jax.debug.callback` of as many words, which are averaged over the devices and sent by the
first device.

    python benchmarks/seeds.py [--short]
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any, final

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
HEADER_WORDS = 12
AXIS = "x"


def send_bare(values: jax.Array) -> None:
    """Send the mean of some words over the devices, from the first device."""
    jax.lax.cond(
        jax.lax.axis_index(AXIS) == 0,
        lambda packed: jax.debug.callback(lambda _: None, packed),
        lambda _: None,
        jax.lax.pmean(values, AXIS),
    )


@final
@jax.tree_util.register_static
@dataclass(frozen=True)
class BareCallback:
    """The minimal callback that logs a training: no statistics, no order, no run."""

    def init(self, _num_envs: int) -> tuple[()]:
        return ()

    def on_training_start(self, state: tuple[()]) -> tuple[()]:
        return state

    def on_step(self, state: tuple[()], *_: Any, **__: Any) -> tuple[()]:
        return state

    def on_iteration(
        self, state: tuple[()], *, training_log: dict[str, jax.Array], **_: Any
    ) -> tuple[()]:
        header = jnp.zeros(NUM_SCALARS + HEADER_WORDS - len(training_log))
        send_bare(jnp.concatenate([jnp.stack(list(training_log.values())), header]))
        return state

    def on_training_end(self, state: tuple[()]) -> tuple[()]:
        return state


def time_run(program: Any, *arguments: Any, **options: Any) -> float:
    """Return seconds until the program's result is ready, with a callback to a no-op backend."""
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


def devices(config: Config, iterations: int, rounds: int) -> None:
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))

    def spread(program: Any) -> Any:
        return jax.jit(
            lambda metrics, own: jax.shard_map(
                functools.partial(program, metrics),
                mesh=mesh,
                in_specs=P(AXIS),
                out_specs=P(AXIS),
                check_vma=False,  # the demo starts with states that are equal on all devices
            )(own)
        )

    def trains(metrics: Any, keys: jax.Array) -> Any:
        policy = train(metrics, keys[0], config).policy
        return jax.tree.map(lambda leaf: leaf[None], policy)

    def logs(metrics: MetricsCallback, own: jax.Array) -> jax.Array:
        def iterate(carry: Any, _: None) -> Any:
            state, own = carry
            log = {f"metric_{index:02d}": own[0] for index in range(NUM_SCALARS)}
            return (metrics.on_iteration(state, training_log=log), own + 1), None

        return jax.lax.scan(iterate, (metrics.init(1), own), length=iterations)[0][1]

    def calls(_: None, own: jax.Array) -> jax.Array:
        def iterate(own: jax.Array, _: None) -> Any:
            send_bare(jnp.broadcast_to(own[0], NUM_SCALARS + HEADER_WORDS))
            return own + 1, None

        return jax.lax.scan(iterate, own, length=iterations)[0]

    keys = jax.random.split(jax.random.key(0), 8)
    training = spread(trains)
    contestants = {
        "no logging": functools.partial(time_bare, training, None, keys),
        "bare `debug.callback`": functools.partial(time_bare, training, BareCallback(), keys),
        "metriplex": functools.partial(time_run, training, keys),
    }
    title = "PPO on 8 devices, `shard_map`"
    show(title, contestants, config.num_iterations, rounds, "bare `debug.callback`")
    values = jnp.arange(8.0)
    contestants = {
        "bare `debug.callback`": functools.partial(time_bare, spread(calls), None, values),
        "metriplex": functools.partial(time_run, spread(logs), values),
    }
    show("only logging on 8 devices", contestants, iterations, rounds)


def show(
    title: str, contestants: dict[str, Any], iterations: int, rounds: int, base: str | None = None
) -> None:
    results = take_turns(contestants, rounds)
    base = base or next(iter(contestants))
    print_table(
        [title, "ms an iteration", "ratio"],
        [
            [
                name,
                f"{statistics.median(found) / iterations * 1e3:.3f}",
                f"{ratio(results, name, base):.3f}",
            ]
            for name, found in results.items()
        ],
    )


def main() -> None:
    short = is_short(__doc__)
    print_machine("jax", "jaxlib")
    if short:
        small = Config(num_envs=4, num_iterations=3, num_epochs=1)
        seeds(8, small, 1)
        devices(small, 30, 1)
    else:
        seeds(256, Config(num_envs=4, num_iterations=20, num_epochs=4), 7)
        devices(Config(num_envs=4, num_iterations=100, num_epochs=4), 1000, 9)


if __name__ == "__main__":
    main()
