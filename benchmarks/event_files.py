"""Measure the scalars a second written to a TensorBoard event file, until the file is closed.

The contestants are this backend, tensorboardX's `SummaryWriter.add_scalar`, and tensorboardX's
synchronous `EventsWriter` with one event for all values of a step. They alternate, so that a slow
period of the machine affects all; the fastest round of each counts.

    python benchmarks/event_files.py [--short]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.event_file_writer import EventsWriter

from metriplex import RunInfo, Scalars
from metriplex_tensorboard import TensorBoardBackend
from metriplex_tensorboard.protos import Event, Summary

BATCH = 100
"""Records in one call of the hook, as for a worker that lags a little."""

Log = Callable[[Path, Sequence[Scalars]], None]


def metriplex_backend(directory: Path, records: Sequence[Scalars]) -> None:
    run = RunInfo(id=str(directory), name="run", directory=directory, start_time=0.0)
    backend = TensorBoardBackend()
    backend.open_run(run)
    for start in range(0, len(records), BATCH):
        backend.log_scalars(run, records[start : start + BATCH])
    backend.close_run(run, "finished")
    [path] = directory.iterdir()
    # The peers call fsync themselves when they are closed.
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


def summary_writer(directory: Path, records: Sequence[Scalars]) -> None:
    writer = SummaryWriter(str(directory))
    for record in records:
        for tag, value in record.values.items():
            writer.add_scalar(tag, value, record.step, record.wall_time)
    writer.close()


def events_writer(directory: Path, records: Sequence[Scalars]) -> None:
    writer = EventsWriter(str(directory / "events"))
    for record in records:
        summary = Summary(
            value=[
                Summary.Value(tag=tag, simple_value=value) for tag, value in record.values.items()
            ]
        )
        writer.write_event(Event(step=record.step, wall_time=record.wall_time, summary=summary))
    writer.close()


CONTESTANTS: dict[str, Log] = {
    "SummaryWriter.add_scalar": summary_writer,
    "EventsWriter": events_writer,
    "metriplex": metriplex_backend,
}


def measure(values: int, scalars: int, rounds: int) -> dict[str, float]:
    """Return scalars a second by contestant, for `scalars` in total with `values` per step."""
    records = [
        Scalars(
            step=512 * index,
            values={f"train/metric_{number}": index + number / 7 for number in range(values)},
            wall_time=1.7e9 + index,
        )
        for index in range(scalars // values)
    ]
    best = dict.fromkeys(CONTESTANTS, 0.0)
    for _ in range(rounds):
        for name, log in CONTESTANTS.items():
            with tempfile.TemporaryDirectory() as directory:
                start = time.perf_counter()
                log(Path(directory), records)
                seconds = time.perf_counter() - start
            best[name] = max(best[name], len(records) * values / seconds)
    return best


def machine() -> str:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    packages = ["metriplex-tensorboard", "tensorboardX", "crc32c", "protobuf", "numpy"]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few seconds, for CI")
    arguments = parser.parse_args()
    scalars, rounds = (20_000, 1) if arguments.short else (200_000, 5)

    print(machine())
    print(f"{scalars} scalars a round, fastest of {rounds} rounds\n")
    print(f"{'values a step':>13}  {'writer':<26}{'scalars/s':>12}{'ratio':>8}")
    for values in (1, 20):
        best = measure(values, scalars, rounds)
        for name, rate in best.items():
            ratio = rate / best["SummaryWriter.add_scalar"]
            print(f"{values:>13}  {name:<26}{rate:>12,.0f}{ratio:>7.1f}x")


if __name__ == "__main__":
    main()
