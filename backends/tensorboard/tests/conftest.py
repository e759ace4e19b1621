"""Runs to write, and TensorBoard's own readers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    STORE_EVERYTHING_SIZE_GUIDANCE,
    EventAccumulator,
)
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboardX.proto.event_pb2 import Event  # ty: ignore[missing-module-member] - made at import

from metriplex import RunInfo

MakeRun = Callable[..., RunInfo]
ReadEvents = Callable[[Path], list[Any]]
Accumulate = Callable[[Path], EventAccumulator]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make runs: `make_run(directory=, resume_step=)`."""
    ids = itertools.count()

    def make(directory: Path | None = None, resume_step: int | None = None) -> RunInfo:
        path = tmp_path / "run" if directory is None else directory
        path.mkdir(exist_ok=True)
        return RunInfo(
            id=f"{next(ids):x}",
            name=path.name,
            directory=path,
            start_time=1.7e9,
            resume_step=resume_step,
        )

    return make


@pytest.fixture
def read_events() -> ReadEvents:
    """Read every event of a directory in the order of file names, and verify checksums.

    TensorBoard's reader reads the framing, tensorboardX's classes read the messages.
    """

    def read(directory: Path) -> list[Any]:
        paths = sorted(directory.glob("*tfevents*"))
        return [
            Event.FromString(data)
            for path in paths
            for data in RawEventFileLoader(str(path)).Load()
        ]

    return read


@pytest.fixture
def accumulate() -> Accumulate:
    """Return TensorBoard's accumulator over a directory, which keeps all events."""

    def load(directory: Path) -> EventAccumulator:
        accumulator = EventAccumulator(str(directory), STORE_EVERYTHING_SIZE_GUIDANCE)
        accumulator.Reload()
        return accumulator

    return load
