"""The contract of backends for MLflow, which reads a tracking server's database and artifacts."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import pytest
import sqlalchemy

from metriplex import Lane
from metriplex.testing import BackendContract, Stored, read_picture

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # which MLflow reads at its import

from metriplex_mlflow import MlflowBackend
from metriplex_mlflow.testing import TrackingServer, shared_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from metriplex import RunInfo, Scalar

_ESCAPED = re.compile(r"_x([0-9A-F]{4,6})_")
_FILE = re.compile(r"(.+)/step_(\d+)_(\d+)_[0-9a-f]+\.\w+")
_PICTURE = re.compile(r"(.+)\+step\+(\d+)\+timestamp\+(\d+)\+[0-9a-f]+\.png")
_ARTIFACT = re.compile(r"step_(\d+)/(.+)")
_STATUSES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}


@final
class Contract(BackendContract):
    """MLflow keeps every value as float64, hyper-parameters exactly in a file, no iterations.

    Attributes:
        uri: The address of a server that is started for the tests.
    """

    precision = np.float64
    stores_once: ClassVar[bool] = True
    uri: str

    @pytest.fixture(autouse=True)
    def _with_a_server(self) -> None:
        self.uri = shared_server().uri

    def make_backend(self) -> MlflowBackend:
        """Return a backend that logs to the server."""
        return MlflowBackend(self.uri, timeout_secs=60.0)

    def stored_value(self, value: Scalar) -> float:
        """Return a float64; MLflow's stores replace infinities by the largest numbers.

        SQLite, which is one of its stores, keeps no sign of zero.
        """
        stored = float(super().stored_value(value)) + 0.0
        return math.copysign(sys.float_info.max, stored) if math.isinf(stored) else stored

    def stored_iteration(self, iteration: int) -> None:
        """Return None: a metric has no iteration."""

    def read_back(self, run: RunInfo) -> Stored:
        """Read the server's database, and the directory of its artifacts."""
        return read_run(shared_server(), run)


def read_run(server: TrackingServer, run: RunInfo) -> Stored:
    """Read a run from a server's database and from the directory of its artifacts.

    Metrics and files that the tag `metriplex.superseded` makes void are left out.
    """
    engine = sqlalchemy.create_engine(server.database)
    try:
        with engine.connect() as connection:
            return _Reader(connection, server.artifacts).read(run)
    finally:
        engine.dispose()


@final
class _Reader:
    def __init__(self, connection: sqlalchemy.Connection, artifacts: Path) -> None:
        self._connection = connection
        self._artifacts = artifacts
        self._marks: list[tuple[int, int]] = []
        self._names: dict[str, str] = {}

    def read(self, run: RunInfo) -> Stored:
        stored: Any = Stored()
        [(run_id, status, uri)] = self._ask(
            "SELECT r.run_uuid, r.status, r.artifact_uri FROM runs r JOIN tags t USING (run_uuid) "
            "WHERE t.key = 'metriplex.run_id' AND t.value = :id",
            id=run.id,
        )
        self._marks = json.loads(self._tags(run_id).get("metriplex.superseded", "[]"))
        lanes = self._ask(
            "SELECT r.run_uuid, l.value, r.artifact_uri, r.name FROM runs r "
            "JOIN tags p ON p.run_uuid = r.run_uuid AND p.key = 'mlflow.parentRunId' "
            "JOIN tags l ON l.run_uuid = r.run_uuid AND l.key = 'metriplex.lane' "
            "WHERE p.value = :id",
            id=run_id,
        )
        self._read_one(stored, None, run_id, uri)
        for child, lane, child_uri, name in lanes:
            stored.lanes[int(lane)] = Lane(name, self._hparams(child_uri))
            self._read_one(stored, int(lane), child, child_uri)
        return dataclasses.replace(stored, hparams=self._hparams(uri), status=_STATUSES.get(status))

    def _hparams(self, uri: str) -> dict[str, Any]:
        found = self._folder(uri) / "hparams.json"
        return json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}

    def _read_one(self, stored: Any, lane: int | None, run_id: str, uri: str) -> None:
        tags = self._tags(run_id)
        self._names = {}
        for key in sorted(tags, key=lambda key: (len(key), key)):
            if key.startswith("metriplex.name."):
                digest = key.split(".")[2]
                self._names[digest] = self._names.get(digest, "") + tags[key]
        for name, value, timestamp, step, is_nan in self._ask(
            "SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = :id "
            "ORDER BY timestamp, step, value",
            id=run_id,
        ):
            if not self._is_void(step, timestamp):
                series = (lane, self._tag(name))
                point = (step, math.nan if is_nan else value + 0.0)
                stored.scalars.setdefault(series, []).append(point)
                stored.wall_times.setdefault(series, []).append((step, timestamp / 1000))
        for path, content in self._files(uri):
            kind, _, rest = path.partition("/")
            if kind == "artifacts":
                [(step, name)] = _ARTIFACT.findall(rest)
                series = (lane, "/".join(map(self._tag, name.split("/"))))
                stored.artifacts.setdefault(series, []).append((int(step), content))
                continue
            matched = (_PICTURE if kind == "images" else _FILE).fullmatch(rest)
            if matched is None or self._is_void(int(matched[2]), int(matched[3])):
                continue
            series = (lane, self._tag(matched[1].replace("~", "/")))
            place = getattr(stored, kind)
            place.setdefault(series, []).append((int(matched[2]), *_decoded(kind, content)))
            point = (int(matched[2]), int(matched[3]) / 1000)
            stored.wall_times.setdefault(series, []).append(point)

    def _tags(self, run_id: str) -> dict[str, str]:
        return dict(self._ask("SELECT key, value FROM tags WHERE run_uuid = :id", id=run_id))

    def _ask(self, query: str, **values: object) -> list[Any]:
        return [tuple(row) for row in self._connection.execute(sqlalchemy.text(query), values)]

    def _tag(self, name: str) -> str:
        whole = self._names.get(name.rpartition("_")[2], name)
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), whole)

    def _is_void(self, step: int, timestamp: int) -> bool:
        return any(step >= start and timestamp < end for start, end in self._marks)

    def _folder(self, uri: str) -> Path:
        return self._artifacts / uri.removeprefix("mlflow-artifacts:/")

    def _files(self, uri: str) -> Iterator[tuple[str, bytes]]:
        folder = self._folder(uri)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def _decoded(kind: str, content: bytes) -> tuple[Any, ...]:
    if kind == "texts":
        return (content.decode("utf-8", "surrogatepass"),)
    if kind == "images":
        return (read_picture(content),)
    if kind == "histograms":
        found: Mapping[str, Any] = json.loads(content)
        return np.array(found["counts"], np.int64), np.array(found["edges"], np.float64)
    return (content,)
