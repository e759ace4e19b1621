"""A tracking server on this machine, for tests and benchmarks.

The module needs `pip install 'metriplex-mlflow[testing]'`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import final

import requests
import sqlalchemy

START_SECS = 120.0

_VARIABLES = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
_POSTGRES = "METRIPLEX_TEST_POSTGRES"


@final
class TrackingServer:
    """`mlflow server` on the loopback interface, on a free port.

    The server's store is SQLite in the given directory. If the environment variable
    `METRIPLEX_TEST_POSTGRES` has the URL of a cluster, the store is a new database of PostgreSQL.

    Attributes:
        uri: The server's address.
        database: The URL of the store.
        artifacts: The directory of the artifacts.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare; `start` starts the server.

        Args:
            directory: The directory of the server's files.
        """
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.artifacts = directory / "artifacts"
        self._log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        cluster = os.environ.get(_POSTGRES)
        self.database = (
            f"sqlite:///{directory / 'mlflow.db'}" if cluster is None else _create_database(cluster)
        )

    def start(self) -> None:
        """Start the server, again after `kill` or `stop`, and wait until it answers.

        Raises:
            RuntimeError: The server ends, or doesn't answer in time.
        """
        places = ["--backend-store-uri", self.database, "--artifacts-destination"]
        address = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-m", "mlflow", "server", *places, str(self.artifacts), *address],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ
                | {
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
            )
        deadline = time.monotonic() + START_SECS
        while not self._answers():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
            if self._process.returncode is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(
                    f"`mlflow server` does not start:\n{self._log.read_text()[-3000:]}"
                )

    def kill(self) -> None:
        """Kill the server by SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server by SIGTERM."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Suspend the server's processes: requests are accepted and not answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue the processes after `pause`."""
        self._signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._signal(number)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
            self._signal(signal.SIGKILL)  # its child processes
            self._process = None

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


@functools.cache
def shared_server() -> TrackingServer:
    """Return the server that tests of this process share; it stops when the process ends."""
    directory = Path(tempfile.mkdtemp(prefix="metriplex-mlflow-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    server = TrackingServer(directory)
    atexit.register(server.stop)
    server.start()
    return server


def _create_database(cluster: str) -> str:
    name = f"metriplex_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(cluster, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    url = sqlalchemy.make_url(cluster).set(database=name)
    return url.render_as_string(hide_password=False)
