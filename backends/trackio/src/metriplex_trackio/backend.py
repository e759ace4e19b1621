"""The hooks of the Trackio backend."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Mapping, Sequence  # noqa: TC003 - hook signatures are public
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import PIL.Image
from trackio.sqlite_storage import SQLiteStorage
from trackio.utils import canonical_project_name, is_network_filesystem

from metriplex import (
    Artifact,
    ClosedError,
    ConfigurationError,
    Diagnosis,
    Histogram,
    Image,
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

_STATUSES = ("finished", "failed", "interrupted")
_PENDING_BYTES = 2**20


@final
class TrackioBackend:
    """Logs runs to Trackio's database on this machine, which `trackio show` shows.

    A run is a run of the project; a lane of a vmapped axis is one of its own, in the same group.
    Rows wait in memory, about a megabyte of them, for `flush`; once it has returned they survive
    the end of this process, whatever ends it. There is no thread, no process and no connection to
    anywhere.

    The database is where Trackio keeps it in this process: in the directory that the environment
    variable `TRACKIO_DIR` named when Trackio was imported, else in that of Hugging Face's cache.

    Args:
        project: Trackio's project.
        group: What a run and its lanes are grouped by. None: the run's name.
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
        self._lock = threading.Lock()
        self._open: dict[str, _OpenRun] = {}
        self._closed: set[str] = set()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Makes the database, and removes what a resumed run supersedes.

        Args:
            run: The run; Trackio has it under the same id.

        Raises:
            OSError: The database can't be written.
            ClosedError: The run was closed before.
        """
        if run.id in self._closed:
            raise _closed_error(run)
        self._store.create()
        if run.resume_step is not None:
            self._store.supersede(run.id, run.resume_step)
        with self._lock:
            self._open.setdefault(run.id, _OpenRun(run))

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Stores hyper-parameters in the configuration of the run and of its lanes.

        Args:
            run: The run.
            hparams: Name to value.
        """
        opened = self._find(run)
        opened.hparams |= hparams
        opened.configured.clear()
        opened.lanes.add(None)

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Stores records, each as one row of the run of its lane.

        Args:
            run: The run.
            records: In the order in which they are stored, lane by lane.

        Raises:
            OSError: There is no room left in memory, and the database takes nothing. None of the
                records was taken.
            LoggingError: A step is no int64, or a tag is empty. None of the records was taken.
        """
        opened = self._find(run)
        rows = [make_row(run.id, one.lane, one.step, one.wall_time, one.values) for one in records]
        self._append(opened, rows)

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Stores a text as Markdown.

        Args:
            run: The run.
            text: The record.

        Raises:
            OSError: There is no room left in memory, and the database takes nothing.
        """
        self._log(run, text, {"_type": "trackio.markdown", "_value": _utf8(text.text)})

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        """Stores a clip as MP4, encoded already or here.

        Args:
            run: The run.
            video: The record.

        Raises:
            VideoError: The clip can't be encoded.
            OSError: The file can't be written.
        """
        self._log_file(run, video, "video", encode_video(video, "mp4").data, "mp4")

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        """Stores a picture as PNG.

        Args:
            run: The run.
            image: The record.

        Raises:
            OSError: The file can't be written.
        """
        file = io.BytesIO()
        PIL.Image.fromarray(image.pixels).save(file, "PNG")
        self._log_file(run, image, "image", file.getvalue(), "png")

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        """Stores a histogram.

        Args:
            run: The run.
            histogram: The record.

        Raises:
            OSError: There is no room left in memory, and the database takes nothing.
        """
        counts = np.asarray(histogram.counts).tolist()
        edges = np.asarray(histogram.edges, np.float64).tolist()
        self._log(run, histogram, {"_type": "trackio.histogram", "bins": edges, "values": counts})

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Stores a file or a directory as a version of an artifact, with the alias `step_{step}`.

        Args:
            run: The run.
            artifact: The record.

        Raises:
            OSError: It can't be written.
        """
        self._store.keep(*self._find(run).name(artifact.lane), artifact)

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        """Commits everything that was logged; then it survives a SIGKILL of this process.

        Args:
            run: The run.

        Raises:
            OSError: The database can't be written now; what is left is kept for the next call.
        """
        self._write(self._find(run))

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Commits everything that was logged. Closing a run again does nothing.

        Args:
            run: The run.
            status: `"finished"`, `"failed"` or `"interrupted"`; Trackio has no place for it.

        Raises:
            OSError: The database can't be written; the run is open still.
        """
        if status not in _STATUSES:
            raise ConfigurationError(f"`status` must be one of {_STATUSES}; got {status!r}")
        if run.id in self._closed:
            return
        self._write(self._find(run))
        with self._lock:
            self._closed.add(run.id)
            del self._open[run.id]

    @hookimpl
    def diagnose(self) -> Diagnosis:
        """Says where the database is, and whether locks can be relied on there."""
        where = f"Trackio's databases are in `{directory()}`"
        if is_network_filesystem(directory()):
            return Diagnosis(
                works=False,
                summary=f"{where}, on a network file system, where SQLite's locks fail",
                remedy="Set `TRACKIO_DIR` to a directory on a disk of this machine",
            )
        return Diagnosis(works=True, summary=where)

    def _log_file(self, run: RunInfo, record: Any, kind: str, data: bytes, ending: str) -> None:
        run_id, name = self._find(run).name(record.lane)
        path = self._store.save(run_id, name, record.step, data, ending)
        self._log(run, record, {"_type": f"trackio.{kind}", "file_path": path, "caption": None})

    def _log(self, run: RunInfo, record: Any, value: dict[str, Any]) -> None:
        row = make_row(run.id, record.lane, record.step, record.wall_time, {record.tag: value})
        self._append(self._find(run), [row])

    def _append(self, opened: _OpenRun, rows: Sequence[Row]) -> None:
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
        """The configuration of a lane's run, with what it has already if it goes on."""
        run = opened.info
        described = run.lanes[lane].hparams if lane is not None and lane < len(run.lanes) else {}
        own = {"_Username": None, "_Created": timestamp(run.start_time)}
        own["_Group"] = self.group or run.name
        return encode_config({**known, **opened.hparams, **described, **own})

    def _find(self, run: RunInfo) -> _OpenRun:
        opened = self._open.get(run.id)
        if opened is not None:
            return opened
        if run.id in self._closed:
            raise _closed_error(run)
        raise ClosedError(f"run `{run.name}` is not open: call `open_run` before any other hook")


@final
@dataclass(slots=True)
class _OpenRun:
    """What one run still owes the database.

    Attributes:
        info: The run.
        hparams: Its hyper-parameters so far.
        lanes: The lanes that have logged something.
        configured: Those of them whose configuration is stored as it is now.
        pending: Rows that are not stored yet.
        pending_bytes: How large they are.
    """

    info: RunInfo
    hparams: dict[str, Scalar | str] = field(default_factory=dict)
    lanes: set[int | None] = field(default_factory=set)
    configured: set[int | None] = field(default_factory=set)
    pending: list[Row] = field(default_factory=list)
    pending_bytes: int = 0

    def name(self, lane: int | None) -> tuple[str, str]:
        """Id and name of a lane's run in Trackio."""
        if lane is None:
            return self.info.id, self.info.name
        return lane_id(self.info.id, lane), f"{self.info.name}-{self.info.lane_name(lane)}"


def _suggestion(project: object) -> str:
    return canonical_project_name(project) if isinstance(project, str) else "metriplex"


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _closed_error(run: RunInfo) -> ClosedError:
    return ClosedError(
        f"run `{run.name}` was closed: log before `close`, or start a new run to log more"
    )
