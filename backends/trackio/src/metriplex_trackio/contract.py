"""The contract of backends for Trackio, which reads its database and the files beside it."""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import pytest

from metriplex import Lane
from metriplex.testing import BackendContract, Stored, read_picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metriplex import RunInfo, Scalar

_PREFIX = "metriplex-trackio-"
"""Beginning of the names of directories that tests make for Trackio."""

# Trackio reads the variables once, when it is imported; processes that tests start inherit them.
if "trackio" not in sys.modules:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not Path(os.environ.get("TRACKIO_DIR", "")).name.startswith(_PREFIX):
        os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix=_PREFIX)
        atexit.register(shutil.rmtree, os.environ["TRACKIO_DIR"], ignore_errors=True)

from metriplex_trackio import TrackioBackend  # noqa: E402 - imports Trackio

_PROJECT = "contract"
_RESERVED = ("project", "run", "timestamp", "step", "time", "metrics")
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@final
class Contract(BackendContract):
    """Trackio keeps everything but the status of a run and the iterations."""

    stores_once: ClassVar[bool] = True

    @pytest.fixture(autouse=True)
    def _in_a_directory_of_tests(self) -> None:
        """Fail if Trackio's files are anybody else's."""
        found = _directory()
        assert found.name.startswith(_PREFIX), (
            f"Trackio was imported with the directory `{found}`, into which tests must not write: "
            f"import `metriplex_trackio.contract` before `trackio`, or set `TRACKIO_DIR` to a new "
            f"directory whose name begins with `{_PREFIX}`"
        )

    def make_backend(self) -> TrackioBackend:
        """Return a backend that logs to the project of these tests."""
        return TrackioBackend(_PROJECT)

    def stored_value(self, value: Scalar) -> Scalar:
        """Return an integer beyond 64 bits as a float."""
        return value if isinstance(value, float) or -(2**63) <= value < 2**64 else float(value)

    def stored_tag(self, tag: str) -> str:
        """Return another name for names that Trackio reserves, as its client does."""
        return f"__{tag}" if tag in _RESERVED or tag.startswith("__") else tag

    def stored_iteration(self, iteration: int) -> None:
        """Return None: a row has no iteration."""

    def stored_status(self, status: str) -> str | None:
        """Return None: Trackio stores no status."""

    def read_back(self, run: RunInfo) -> Stored:
        """Read the project's database by SQLite alone, and the files that it names."""
        root = _directory()
        stored: Any = Stored()
        with closing(sqlite3.connect(root / f"{_PROJECT}.db")) as connection:
            query = "SELECT run_id, step, timestamp, metrics FROM metrics ORDER BY id"
            for run_id, step, timestamp, metrics in connection.execute(query):
                if run_id.partition("-")[0] == run.id:
                    seconds = datetime.fromisoformat(timestamp).timestamp()
                    for tag, value in json.loads(metrics).items():
                        series = (_lane(run_id), tag)
                        _take(stored, root / "media", series, step, value)
                        stored.wall_times.setdefault(series, []).append((step, seconds))
            query = "SELECT run_id, run_name, config FROM configs"
            for run_id, name, config in connection.execute(query):
                lane = _lane(run_id)
                if run_id == run.id:
                    stored.hparams.update(_hparams(json.loads(config)))
                elif lane is not None and run_id.partition("-")[0] == run.id:
                    own = name.removeprefix(f"{run.name}-")
                    stored.lanes[lane] = Lane(own, _hparams(json.loads(config)))
            for run_id, name, step, data in _artifacts(connection, root, run):
                stored.artifacts.setdefault((_lane(run_id), name), []).append((step, data))
        return stored


def _directory() -> Path:
    """Return the directory of Trackio's files in this process, as Trackio says."""
    from trackio.utils import TRACKIO_DIR

    return Path(TRACKIO_DIR)


def _lane(run_id: str) -> int | None:
    _, _, lane = run_id.partition("-")
    return int(lane) if lane else None


def _take(stored: Any, media: Path, series: Any, step: int, value: Any) -> None:
    if not isinstance(value, dict):
        number = _WORDS[value] if isinstance(value, str) else value
        stored.scalars.setdefault(series, []).append((step, number))
        return
    kind = value["_type"].removeprefix("trackio.")
    if kind == "markdown":
        stored.texts.setdefault(series, []).append((step, value["_value"]))
    elif kind == "histogram":
        counts, edges = np.array(value["values"]), np.array(value["bins"])
        stored.histograms.setdefault(series, []).append((step, counts, edges))
    elif kind == "image":
        pixels = read_picture((media / value["file_path"]).read_bytes())
        stored.images.setdefault(series, []).append((step, pixels))
    else:
        data = (media / value["file_path"]).read_bytes()
        stored.videos.setdefault(series, []).append((step, data))


def _hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    own = ("_Username", "_Created", "_Group")
    return {
        name: _WORDS.get(value, value) if isinstance(value, str) else value
        for name, value in config.items()
        if name not in own
    }


def _artifacts(
    connection: sqlite3.Connection, root: Path, run: RunInfo
) -> list[tuple[str, str, int, bytes]]:
    query = """
        SELECT l.run_id, a.type, v.metadata, v.manifest FROM run_artifact_links l
        JOIN artifact_versions v ON v.id = l.artifact_version_id
        JOIN artifacts a ON a.id = v.artifact_id ORDER BY l.id
    """
    blobs = root / "artifacts" / _PROJECT / "blobs" / "sha256"
    found = []
    for run_id, kind, metadata, manifest in connection.execute(query):
        known = json.loads(metadata)
        for entry in json.loads(manifest) if run_id.partition("-")[0] == run.id else ():
            name = known["name"] + (f"/{entry['path']}" if kind == "directory" else "")
            data = (blobs / entry["digest"][:2] / entry["digest"]).read_bytes()
            found.append((run_id, name, known["step"], data))
    return found
