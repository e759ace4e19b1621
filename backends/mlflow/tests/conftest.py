"""A tracking server, and runs to log to it."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from metriplex import RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metriplex.testing import Stored
    from metriplex_mlflow import MlflowBackend
    from metriplex_mlflow.testing import TrackingServer

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture
def server() -> TrackingServer:
    """One server for all tests that don't break it: it takes long to start."""
    from metriplex_mlflow.testing import shared_server

    return shared_server()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunInfo]:
    """Makes runs: `make_run(resume_step=, id=)`, by default ones that nobody has seen."""

    def make(resume_step: int | None = None, id: str | None = None) -> RunInfo:  # noqa: A002
        directory = tmp_path / "run"
        directory.mkdir(exist_ok=True)
        identity = id or uuid.uuid4().hex
        return RunInfo(identity, "run", directory, time.time(), resume_step=resume_step)

    return make


@pytest.fixture
def make_backend(server: TrackingServer) -> Callable[..., MlflowBackend]:
    """Makes backends on the tests' server."""
    from metriplex_mlflow import MlflowBackend

    def make(timeout_secs: float = 30.0, **options: Any) -> MlflowBackend:
        return MlflowBackend(server.uri, timeout_secs=timeout_secs, **options)

    return make


@pytest.fixture
def read(server: TrackingServer) -> Callable[[RunInfo], Stored]:
    """Reads what the server has stored of a run."""
    from metriplex_mlflow.contract import read_run

    return lambda run: read_run(server, run)
