"""Runs to log to, a server, and a list of the processes that a backend has started."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pytest

from metriplex import RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunInfo]:
    def make(name: str = "run", run_id: str | None = None) -> RunInfo:
        directory = tmp_path / "logs" / name
        directory.mkdir(parents=True, exist_ok=True)
        return RunInfo(run_id or uuid.uuid4().hex, name, directory, time.time())

    return make


@pytest.fixture
def descendants() -> Callable[[], dict[int, str]]:
    """Return the descendants that the test has started, also in other sessions: id to command."""

    def find() -> dict[int, str]:
        parents, commands = {}, {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if state != "Z":
                parents[int(path.name)], commands[int(path.name)] = int(parent), command
        found = {os.getpid()}
        for _ in range(4):
            found |= {pid for pid, parent in parents.items() if parent in found}
        return {pid: commands[pid] for pid in found - {os.getpid(), *earlier}}

    earlier: set[int] = set()  # of other tests, such as a server that they share
    earlier |= find().keys()
    return find


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@final
@dataclass
class StoredRun:
    """The data of one run that the server received."""

    group: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None


@final
class Server:
    """A small W&B server on loopback that answers the client's requests until it is stopped.

    Attributes:
        url: The server's address.
        runs: The id of a run to the data received.
    """

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        server = self

        @final
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                reply = json.dumps(server.answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            do_PUT = do_POST  # noqa: N815 - as the server calls it

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        kind, *names = path.strip("/").split("/")
        if kind == "graphql":
            asked = json.loads(body)
            return {"data": self._data(asked["operationName"], asked["variables"])}
        if kind == "upload":
            self.runs[names[0]].files["/".join(names[1:])] = body
        if kind == "files":
            self._stream(self.runs[names[2]], json.loads(body))
        return {}

    def _data(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "project", "entity": {"id": "e", "name": "team"}}
        if operation == "RunResumeStatus":
            known = self.runs.get(asked["name"])
            return {"model": {**project, "bucket": known and self._bucket(asked["name"], known)}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(asked["name"], StoredRun())
            run.group = asked.get("groupName") or run.group
            run.config |= json.loads(asked.get("config") or "{}")
            bucket = {**self._bucket(asked["name"], run), "project": project, "sweepName": None}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.url}/upload/{asked['run']}/{name}"}
                for name in asked["files"]
            ]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _bucket(self, name: str, run: StoredRun) -> dict[str, Any]:
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "historyLineCount": len(run.rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": "{}",
            "config": json.dumps(run.config),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _stream(self, run: StoredRun, sent: dict[str, Any]) -> None:
        history = sent.get("files", {}).get("wandb-history.jsonl")
        if history:
            lines = [json.loads(line) for line in history["content"]]
            run.rows[history["offset"] :] = lines
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]
