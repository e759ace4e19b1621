"""A tracking server, and runs that log to it."""

from __future__ import annotations

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


@pytest.fixture
def server() -> TrackingServer:
    """Return the server that tests share unless they break it; a start takes long."""
    from metriplex_mlflow.testing import shared_server

    return shared_server()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunInfo]:
    """Make runs: `make_run(resume_step=, id=)`, by default with a new id."""

    def make(resume_step: int | None = None, id: str | None = None) -> RunInfo:  # noqa: A002
        directory = tmp_path / "run"
        directory.mkdir(exist_ok=True)
        identity = id or uuid.uuid4().hex
        return RunInfo(identity, "run", directory, time.time(), resume_step=resume_step)

    return make


@pytest.fixture
def make_backend(server: TrackingServer) -> Callable[..., MlflowBackend]:
    """Make backends that log to the tests' server."""
    from metriplex_mlflow import MlflowBackend

    def make(timeout_secs: float = 30.0, **options: Any) -> MlflowBackend:
        return MlflowBackend(server.uri, timeout_secs=timeout_secs, **options)

    return make


@pytest.fixture
def read(server: TrackingServer) -> Callable[[RunInfo], Stored]:
    """Read the records of a run that the server has stored."""
    from metriplex_mlflow.contract import read_run

    return lambda run: read_run(server, run)


@pytest.fixture
def ask(server: TrackingServer) -> Callable[..., dict[str, Any]]:
    """Send GET requests to MLflow's REST API: `ask(call, **params)`."""
    import requests

    def send(call: str, **params: str | int) -> dict[str, Any]:
        answer = requests.get(f"{server.uri}/api/2.0/mlflow/{call}", params=params, timeout=60)
        answer.raise_for_status()
        return answer.json()

    return send


@pytest.fixture
def tell(server: TrackingServer) -> Callable[..., dict[str, Any]]:
    """Send POST requests to MLflow's REST API: `tell(call, **body)`."""
    import requests

    def send(call: str, **body: Any) -> dict[str, Any]:
        answer = requests.post(f"{server.uri}/api/2.0/mlflow/{call}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    return send


@pytest.fixture
def find(
    ask: Callable[..., dict[str, Any]], tell: Callable[..., dict[str, Any]]
) -> Callable[[str], dict[str, Any]]:
    """Find the run with a tag `metriplex.run_id`, by MLflow's REST API."""

    def search(identity: str) -> dict[str, Any]:
        experiments = ask("experiments/search", max_results=1000)["experiments"]
        [run] = tell(
            "runs/search",
            experiment_ids=[experiment["experiment_id"] for experiment in experiments],
            filter=f"tags.`metriplex.run_id` = '{identity}'",
        )["runs"]
        return run

    return search
