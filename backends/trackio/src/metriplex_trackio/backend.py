"""The hooks of the Trackio backend."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence  # noqa: TC003 - hook signatures are public
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import PIL.Image
from trackio.sqlite_storage import SQLiteStorage
from trackio.utils import canonical_project_name, is_network_filesystem

from metriplex import (
    Artifact,
    ConfigurationError,
    Diagnosis,
    Histogram,
    Image,
    OpenRuns,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    Video,
    encode_video,
    hookimpl,
)
from metriplex_trackio.rows import Row, encode_config, make_row, timestamp
from metriplex_trackio.store import Store, directory, lane_id

_PENDING_BYTES = 2**20


@final
class TrackioBackend:
    """Log runs to Trackio's database on this machine, which `trackio show` shows.

    A run is a run of the project; a lane of a vmapped axis is a run of its own in the same group.
    Rows wait in memory, about a megabyte of them, until `flush`; after `flush` they survive the end
    of this process, also by SIGKILL. The backend starts no thread or process and connects to no
    service.

    The database is in Trackio's directory: the one that the environment variable `TRACKIO_DIR`
    named when Trackio was imported, else one in Hugging Face's cache.

    Args:
        project: Trackio's project.
        group: The group of a run and its lanes. None: the run's name.
        flush_secs: The longest time in seconds that rows wait in memory.

    Raises:
        ConfigurationError: An argument is not usable.
    """

    video_format = "mp4"

    def __init__(
        self, project: str = "metriplex", group: str | None = None, flush_secs: float = 1.0
    ) -> None:
        if not isinstance(project, str) or canonical_project_name(project) != project:
            raise ConfigurationError(
                f"`project` names a file and must consist of letters, digits, `-` and `_`; got "
                f"{project!r}: pass for example {_suggestion(project)!r}"
            )
        try:
            SQLiteStorage.validate_project_name(project)
        except ValueError as error:
            raise ConfigurationError(f"`project` can't be used: {error}") from error
        if group is not None and (not isinstance(group, str) or not group):
            raise ConfigurationError(
                f"`group` must be a string that is not empty, or None; got {group!r}"
            )
        if not (math.isfinite(flush_secs) and flush_secs > 0):
            raise ConfigurationError(
                f"`flush_secs` must be a positive number of seconds; got {flush_secs!r}"
            )
        self.project = project
        self.group = group
        self.flush_secs = float(flush_secs)
        self._store = Store(project)
        self._runs = OpenRuns[_OpenRun]()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Create the database, and remove the rows that a resumed run supersedes."""
        self._runs.open(run, self._open)

    def _open(self, run: RunInfo) -> _OpenRun:
        self._store.create()
        if run.resume_step is not None:
            self._store.supersede(run.id, run.resume_step)
        return _OpenRun(run)

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Store hyper-parameters in the configuration of the run and of its lanes."""
        opened = self._runs.find(run)
        opened.hparams |= hparams
        opened.configured.clear()
        opened.lanes.add(None)

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Store each record as one row of its lane's run; all records, or none."""
        rows = [make_row(run.id, one.lane, one.step, one.wall_time, one.values) for one in records]
        self._append(run, rows)

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Store a text as Markdown."""
        self._log(run, text, {"_type": "trackio.markdown", "_value": _utf8(text.text)})

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        self._log_file(run, video, "video", encode_video(video, "mp4").data, "mp4")

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        file = io.BytesIO()
        PIL.Image.fromarray(image.pixels).save(file, "PNG")
        self._log_file(run, image, "image", file.getvalue(), "png")

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        counts = np.asarray(histogram.counts).tolist()
        edges = np.asarray(histogram.edges, np.float64).tolist()
        self._log(run, histogram, {"_type": "trackio.histogram", "bins": edges, "values": counts})

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Store a file or a directory as a version of an artifact, with the alias `step_{step}`."""
        self._store.keep(*self._runs.find(run).name(artifact.lane), artifact)

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        self._write(self._runs.find(run))

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Write everything; Trackio has no place for the status."""
        self._runs.close(run, status, self._write)

    @hookimpl
    def diagnose(self) -> Diagnosis:
        """Report the directory of the databases, and whether its locks are reliable."""
        where = f"Trackio's databases are in `{directory()}`"
        if is_network_filesystem(directory()):
            return Diagnosis(
                works=False,
                summary=f"{where}, on a network file system, where SQLite's locks fail",
                remedy="Set `TRACKIO_DIR` to a directory on a disk of this machine",
            )
        return Diagnosis(works=True, summary=where)

    def _log_file(self, run: RunInfo, record: Any, kind: str, data: bytes, ending: str) -> None:
        run_id, name = self._runs.find(run).name(record.lane)
        path = self._store.save(run_id, name, record.step, data, ending)
        self._log(run, record, {"_type": f"trackio.{kind}", "file_path": path, "caption": None})

    def _log(self, run: RunInfo, record: Any, value: dict[str, Any]) -> None:
        row = make_row(run.id, record.lane, record.step, record.wall_time, {record.tag: value})
        self._append(run, [row])

    def _append(self, run: RunInfo, rows: Sequence[Row]) -> None:
        opened = self._runs.find(run)
        if opened.pending_bytes >= _PENDING_BYTES:
            self._write(opened)
        opened.pending += rows
        opened.pending_bytes += sum(len(row.metrics) for row in rows)
        opened.lanes.update(row.lane for row in rows)

    def _write(self, opened: _OpenRun) -> None:
        fresh = opened.lanes - opened.configured
        if not opened.pending and not fresh:
            return
        names = {lane: opened.name(lane) for lane in opened.lanes}
        known = self._store.read_configs(opened.info.id) if fresh else {}
        configs = {
            lane: self._config(opened, lane, known.get(names[lane][0], {})) for lane in fresh
        }
        self._store.write(names, opened.pending, configs)
        opened.configured |= fresh
        opened.pending, opened.pending_bytes = [], 0

    def _config(self, opened: _OpenRun, lane: int | None, known: Mapping[str, Any]) -> bytes:
        """Return the configuration of a lane's run; a continued run keeps entries of `known`."""
        run = opened.info
        described = run.lanes[lane].hparams if lane is not None and lane < len(run.lanes) else {}
        own = {"_Username": None, "_Created": timestamp(run.start_time)}
        own["_Group"] = self.group or run.name
        return encode_config({**known, **opened.hparams, **described, **own})


@final
@dataclass(slots=True)
class _OpenRun:
    """An open run, and its rows that are not stored yet.

    Attributes:
        info: The run.
        hparams: Its hyper-parameters so far.
        lanes: The lanes that have logged something.
        configured: The lanes whose configuration in the database is up to date.
        pending: Rows that are not stored yet.
        pending_bytes: Bytes of the pending rows' metrics.
    """

    info: RunInfo
    hparams: dict[str, Scalar | str] = field(default_factory=dict)
    lanes: set[int | None] = field(default_factory=set)
    configured: set[int | None] = field(default_factory=set)
    pending: list[Row] = field(default_factory=list)
    pending_bytes: int = 0

    def name(self, lane: int | None) -> tuple[str, str]:
        """Return the id and the name of a lane's run in Trackio."""
        if lane is None:
            return self.info.id, self.info.name
        return lane_id(self.info.id, lane), f"{self.info.name}-{self.info.lane_name(lane)}"


def _suggestion(project: object) -> str:
    return canonical_project_name(project) if isinstance(project, str) else "metriplex"


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
