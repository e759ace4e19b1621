"""Servers that are killed, hang and restart: no record is lost, none is stored twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("mlflow")

from mlflow import environment_variables

from metriplex import Artifact, MetricsCallback, Scalars, Text, TransientError
from metriplex_mlflow import MlflowBackend
from metriplex_mlflow.contract import read_run
from metriplex_mlflow.testing import TrackingServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[TrackingServer]:
    """Return a server that the test may kill."""
    server = TrackingServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_killed_server_costs_nothing(own_server: TrackingServer, make_run, tmp_path) -> None:
    """Every hook is called while the server is down, and again when it is up."""
    run = make_run()
    backend = MlflowBackend(own_server.uri, timeout_secs=60)
    records = [Scalars(step, {"a": step / 8, "b": -step}) for step in range(700)]
    lanes = [Scalars(step, {"a": step}, lane=step % 2) for step in range(10)]
    (tmp_path / "file").write_bytes(b"content")
    backend.open_run(run)
    backend.log_scalars(run, records[:600])  # more than one request holds

    own_server.kill()
    calls = [
        lambda: backend.log_scalars(run, records[600:]),
        lambda: backend.log_scalars(run, lanes),
        lambda: backend.log_hparams(run, {"lr": 0.1}),
        lambda: backend.log_text(run, Text(3, "note", "hello")),
        lambda: backend.log_artifact(run, Artifact(4, "file", tmp_path / "file")),
        lambda: backend.flush(run),
        lambda: backend.close_run(run, "finished"),
    ]
    for call in calls:
        with pytest.raises(TransientError, match="can't be used now"):
            call()
    own_server.start()
    for call in calls:
        call()

    stored = read_run(own_server, run)
    assert stored.scalars == {
        (None, "a"): [(step, step / 8) for step in range(700)],
        (None, "b"): [(step, -step) for step in range(700)],
        (0, "a"): [(step, step) for step in range(0, 10, 2)],
        (1, "a"): [(step, step) for step in range(1, 10, 2)],
    }
    assert stored.hparams == {"lr": 0.1}
    assert stored.texts == {(None, "note"): [(3, "hello")]}
    assert stored.artifacts == {(None, "file"): [(4, b"content")]}
    assert stored.status == "finished"


@pytest.mark.slow
def test_outage_in_mid_run_loses_nothing_and_stalls_nothing(
    own_server: TrackingServer, tmp_path: Path
) -> None:
    backend = MlflowBackend(own_server.uri, flush_secs=0.05)
    logged = meanwhile = 0
    enough, away, back = threading.Event(), threading.Event(), threading.Event()

    def restart() -> None:
        enough.wait()
        own_server.kill()
        away.set()
        own_server.start()
        back.set()

    outage = threading.Thread(target=restart)
    outage.start()
    with MetricsCallback("run", log_dir=str(tmp_path / "logs"), backends=backend) as metrics:
        while not back.wait(0.002):  # training continues meanwhile
            metrics.log(logged, {"a": logged / 4})
            logged += 1
            meanwhile += away.is_set()
            if logged == 100:
                metrics.flush()
                enough.set()
        outage.join()
        metrics.log(logged, {"a": logged / 4})
        metrics.flush(timeout=60)
        run = metrics.run.info
    [delivery] = metrics.deliveries()

    assert meanwhile > 100  # a call that waits would leave time for one or two
    assert (delivery.delivered, delivery.undelivered) == (logged + 1, 0)
    assert read_run(own_server, run).scalars == {
        (None, "a"): [(step, step / 4) for step in range(logged + 1)]
    }


def test_requests_whose_answer_is_lost_store_nothing_twice(
    server: TrackingServer, make_backend, make_run, read
) -> None:
    """A suspended server accepts each request, answers too late, and receives it again."""
    run, backend = make_run(), make_backend()
    records = [Scalars(step, {"a": step / 8}, wall_time=1.7e9 + step) for step in range(50)]
    calls = [
        lambda: backend.open_run(run),
        lambda: (backend.log_scalars(run, records), backend.flush(run)),
        lambda: backend.log_scalars(run, [Scalars(0, {"b": 1.0}, lane=0)]),
        lambda: backend.log_text(run, Text(3, "note", "hello")),
        lambda: backend.close_run(run, "finished"),
    ]
    for call in calls:
        server.pause()
        backend.timeout_secs = 0.3
        try:
            with pytest.raises(TransientError):
                call()
        finally:
            backend.timeout_secs = 60.0
            server.go_on()
        call()

    stored = read(run)
    assert stored.scalars == {
        (None, "a"): [(step, step / 8) for step in range(50)],
        (0, "b"): [(0, 1.0)],
    }
    assert stored.texts == {(None, "note"): [(3, "hello")]}
    assert stored.status == "finished"


def test_no_server_is_told_at_once_and_the_environment_stays(
    make_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow alone would retry for minutes; the environment does not change."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    before = dict(os.environ)
    backend = MlflowBackend("http://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:9 can't be used now"):
        backend.open_run(make_run())
    assert dict(os.environ) == before
    assert environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 7
    assert environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 120


def test_what_was_flushed_survives_sigkill(server: TrackingServer, make_run, read) -> None:
    run = make_run()
    program = """
        import sys
        from pathlib import Path
        from metriplex import RunInfo, Scalars
        from metriplex_mlflow import MlflowBackend

        run = RunInfo(sys.argv[1], "run", Path(sys.argv[2]), 1.7e9)
        backend = MlflowBackend(sys.argv[3], timeout_secs=60)
        backend.open_run(run)
        backend.log_scalars(run, [Scalars(step, {"a": step}) for step in range(1500)])
        backend.flush(run)
        backend.log_scalars(run, [Scalars(10**6, {"a": 0.0})])
        print("flushed", flush=True)
        sys.stdin.read()
    """
    arguments = [run.id, str(run.directory), server.uri]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL

    assert read(run).scalars == {(None, "a"): [(step, step) for step in range(1500)]}
    assert read(run).status is None
