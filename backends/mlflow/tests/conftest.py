"""A tracking server, and runs to log to it."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Protocol

import pytest

from metriplex import RunInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metriplex.testing import Stored
    from metriplex_mlflow import MlflowBackend
    from metriplex_mlflow.testing import TrackingServer

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


class MakeRun(Protocol):
    """Makes a run, by default one that nobody has seen."""

    def __call__(self, resume_step: int | None = None, id: str | None = None) -> RunInfo: ...  # noqa: A002


class MakeBackend(Protocol):
    """Makes a backend on the tests' server."""

    def __call__(self, timeout_secs: float = 30.0, **options: object) -> MlflowBackend: ...


class Read(Protocol):
    """Reads what the server has stored."""

    def __call__(self, run: RunInfo) -> Stored: ...


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """One server for all tests that don't break it: it takes long to start."""
    from metriplex_mlflow.testing import TrackingServer

    server = TrackingServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(resume_step: int | None = None, id: str | None = None) -> RunInfo:  # noqa: A002
        directory = tmp_path / "run"
        directory.mkdir(exist_ok=True)
        identity = id or uuid.uuid4().hex
        return RunInfo(identity, "run", directory, time.time(), resume_step=resume_step)

    return make


@pytest.fixture
def make_backend(server: TrackingServer) -> MakeBackend:
    from metriplex_mlflow import MlflowBackend

    def make(timeout_secs: float = 30.0, **options: object) -> MlflowBackend:
        return MlflowBackend(server.uri, timeout_secs=timeout_secs, **options)  # ty: ignore[invalid-argument-type] - options of any type

    return make


@pytest.fixture
def read(server: TrackingServer) -> Read:
    from metriplex_mlflow.contract import read_run

    return lambda run: read_run(server, run)
