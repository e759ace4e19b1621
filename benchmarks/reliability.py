"""Measure the cost of reliability: the journal, a replay, a resume, a backend that is down.

- The training thread: a compiled program that logs 20 scalars per iteration, with and without a
  journal; contestants take turns.
- The host: processor time of a record of 20 scalars, with and without a journal.
- Replay: scalars a second from the journal into a no-op backend.
- Resume: seconds until a run of a million records is open.
- Memory while a backend is down for the whole run.

    python benchmarks/reliability.py [--short]
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
from _measure import (
    NoOpBackend,
    is_short,
    print_machine,
    print_table,
    ratio,
    resident,
    take_turns,
)

from metriplex import MetricsCallback, RunInfo, Scalars, hookimpl
from metriplex.delivery.run_journal import RunJournal
from metriplex.plugins.backends import Backend
from metriplex.replay.journal import replay_run
from metriplex.run.run import Run
from metriplex.run.scalar_batch import ScalarBatch

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

TAGS = tuple(f"train/tag_{index:02d}" for index in range(20))
BLOCK = 100
LONG = 600.0


@final
class Down:
    """A backend whose service is always down."""

    @hookimpl
    def log_scalars(self) -> None:
        raise ConnectionError("away")


@functools.partial(jax.jit, static_argnames="iterations")
def train(metrics: MetricsCallback, iterations: int) -> Any:
    """Compute a matrix product and log a record in each iteration."""

    def iteration(carry: Any, index: jax.Array) -> tuple[Any, None]:
        weights, state = carry
        weights = jnp.tanh(weights @ weights)
        log = {tag.removeprefix("train/"): weights[0, 0] + index for tag in TAGS}
        return (weights, metrics.on_iteration(state, training_log=log)), None

    carry = (jnp.eye(128), metrics.init(4))
    return jax.lax.scan(iteration, carry, jnp.arange(iterations))[0][0]


def training_seconds(iterations: int, journal: bool) -> float:
    with (
        tempfile.TemporaryDirectory() as log_dir,
        MetricsCallback(log_dir=log_dir, backends=NoOpBackend(), journal=journal) as metrics,
    ):
        begin = time.perf_counter()
        jax.block_until_ready(train(metrics, iterations))
        return time.perf_counter() - begin


@contextmanager
def open_run(directory: Path, plugin: object, *, journal: bool = True) -> Generator[Run]:
    info = RunInfo("0f", "run", directory, 0.0)
    kept = RunJournal(info) if journal else None
    run = Run(info, [Backend("first", plugin)], queue_size=10_000, journal=kept)
    try:
        yield run
    finally:
        run.close("finished", LONG)


def blocks(records: int) -> Iterator[tuple[Scalars, ...]]:
    """Yield records of 20 scalars each, in blocks like those of the receiver thread."""
    steps = itertools.count()
    for _ in range(records // BLOCK):
        chosen = itertools.islice(steps, BLOCK)
        yield tuple(Scalars(s, dict.fromkeys(TAGS, s / 3), s, None, 1e9 + s) for s in chosen)


def log(run: Run, records: int) -> None:
    for index, block in enumerate(blocks(records)):
        run._submit_checked(ScalarBatch.of(block))
        if index % 50 == 49:  # the queue of the journal is never full
            run.flush(LONG)


def host_seconds(records: int, journal: bool) -> float:
    """Return processor seconds of all threads per record."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        with open_run(Path(folder), NoOpBackend(), journal=journal) as run:
            log(run, records)
        return (time.process_time() - begin) / records


def replayed_and_reopened(records: int) -> tuple[float, float]:
    """Return scalars a second of a replay, and seconds until a resumed run is open."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        directory.mkdir()
        with open_run(directory, NoOpBackend()) as run:
            log(run, records)
        begin = time.perf_counter()
        (result,) = replay_run(directory, NoOpBackend())
        replayed = result.sent * len(TAGS) / (time.perf_counter() - begin)
        if result.sent != records:
            raise AssertionError(f"{result.sent} of {records} records were replayed")
        begin = time.perf_counter()
        metrics = MetricsCallback(resume=directory, backends=NoOpBackend())
        reopened = time.perf_counter() - begin
        metrics.close()
        return replayed, reopened


def memory_of_an_outage(records: int) -> list[float]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        info = RunInfo("0f", "run", Path(folder), 0.0)
        run = Run(info, [Backend("first", Down())], queue_size=10_000, journal=RunJournal(info))
        for index, block in enumerate(blocks(records)):
            run._submit_checked(ScalarBatch.of(block))
            if index % (records // BLOCK // 10) == 0:
                if run._journal_worker is not None:
                    run._journal_worker.start_flush().wait(LONG)
                found.append(resident())
        run.close("finished", LONG)
    return found


def main() -> None:
    short = is_short(__doc__)
    logging.getLogger("metriplex").setLevel(logging.CRITICAL)  # the outage is intended
    print_machine("jax", "jaxlib")
    iterations, records, rounds = (200, 2_000, 2) if short else (5_000, 100_000, 7)
    million = 10_000 if short else 1_000_000
    names = {"journal": True, "without": False}
    training = take_turns(
        {name: functools.partial(training_seconds, iterations, on) for name, on in names.items()},
        rounds,
    )
    host = take_turns(
        {name: functools.partial(host_seconds, records, on) for name, on in names.items()}, rounds
    )
    replayed, reopened = replayed_and_reopened(million)
    memory = memory_of_an_outage(million)
    extra = 1e6 * (statistics.median(host["journal"]) - statistics.median(host["without"]))
    print_table(
        ["what", "measured", "promise"],
        [
            [
                "training with a journal, over without",
                f"{ratio(training, 'journal', 'without'):.3f}",
                "1",
            ],
            ["host, a record of 20 scalars, the journal alone", f"{extra:.1f} µs", "< 20 µs"],
            ["replay into a no-op backend", f"{replayed:,.0f} scalars/s", "> 200,000"],
            [f"{million:,} records reopened", f"{reopened:.2f} s", "< 2 s"],
            [
                "memory, a backend down for as many",
                f"{memory[-1] - memory[len(memory) // 2]:+.1f} MiB in the second half",
                "flat",
            ],
        ],
    )
    print(f"{os.cpu_count()} cores; the queue of the backend that is down holds 10,000 records")


if __name__ == "__main__":
    main()
