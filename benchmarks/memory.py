"""Measure the memory of the process over a million records; it stays flat without a leak.

Each leg logs the same number of records of two scalars from a compiled scan, followed by a `flush`.
The resident memory is read after each leg, a tenth of the records.

    python benchmarks/memory.py [--short]
"""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
from _measure import MEBIBYTE, NoOpBackend, is_short, print_machine, print_table, resident

from metriplex import MetricsCallback

LEGS = 10


@functools.partial(jax.jit, static_argnames="records")
def log(metrics: MetricsCallback, state: Any, records: int) -> Any:
    def iteration(state: Any, index: jax.Array) -> tuple[Any, None]:
        state = metrics.on_step(state, jnp.ones(4), jnp.zeros(4, bool))
        return metrics.on_iteration(state, training_log={"a": index, "b": -1.5}), None

    return jax.lax.scan(iteration, state, jnp.arange(records))[0]


def measure(records: int, backends: Any) -> list[float]:
    """Return the resident memory in MiB after each leg; one leg runs before, unmeasured."""
    found = []
    with (
        tempfile.TemporaryDirectory() as log_dir,
        MetricsCallback(
            log_dir=log_dir, backends=backends, buffer=100, queue_size=2 * records
        ) as metrics,
    ):
        state = metrics.init(4)
        for _ in range(LEGS + 1):
            state = jax.block_until_ready(log(metrics, state, records // LEGS))
            metrics.flush()
            found.append(resident())
        if any(delivery.undelivered for delivery in metrics.deliveries()):
            raise AssertionError("records were lost, so the memory means nothing")
    return found


def main() -> None:
    records = 20_000 if is_short(__doc__) else 1_000_000
    print_machine("jax", "jaxlib")
    rows = []
    for name, backends in {"no-op": NoOpBackend(), "TensorBoard": "tensorboard"}.items():
        found = measure(records, backends)
        first, middle, last = found[0], found[LEGS // 2], found[-1]
        rows.append([name, *(f"{size:.0f}" for size in (first, middle, last))])
        rows[-1] += [f"{last - first:+.1f}", f"{(last - first) * MEBIBYTE / records:+.1f}"]
    print(f"{records:,} records after a first {records // LEGS:,}\n")
    print_table(
        ["backend", "MiB at first", "half way", "at the end", "difference", "bytes a record"], rows
    )


if __name__ == "__main__":
    main()
