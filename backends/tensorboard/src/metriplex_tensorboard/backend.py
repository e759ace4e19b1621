"""The hooks of the TensorBoard backend."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence  # noqa: TC003 - hook signatures are public
from dataclasses import dataclass, field
from typing import Literal, final

from tensorboardX import SummaryWriter  # noqa: TC002 - part of public annotations

from metriplex import (
    ClosedError,
    ConfigurationError,
    Histogram,
    Image,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    Video,
    hookimpl,
)
from metriplex_tensorboard import events
from metriplex_tensorboard.run_files import RunFiles
from metriplex_tensorboard.writer import RunWriter

_STATUSES = ("finished", "failed", "interrupted")


@final
class TensorBoardBackend:
    """Writes runs as event files that TensorBoard shows.

    A run is written into `run.directory`; a lane of a vmapped axis into a directory below it
    (`seed_000`, ..., or as it was named), which TensorBoard shows as a run of its own. All the
    values of a step make one event. Events wait in memory, about a megabyte of them, for `flush`;
    once it has returned they survive the end of this process, whatever ends it.

    Args:
        flush_secs: The longest time in seconds that events wait in memory.
        purge_step: TensorBoard drops what earlier files in the run's directory hold at this step
            and beyond. None: `run.resume_step`, if the run continues an earlier one.
        filename_suffix: Ends the names of the event files, which are unique without it.
        hparam_metrics: Tags of the scalars that the HPARAMS tab shows beside the hyper-parameters.
        video_format: How clips are stored: `"gif"`, or animated `"webp"`, which is smaller and
            which Chromium plays, but not every browser.

    Raises:
        ConfigurationError: An argument is not usable.
    """

    def __init__(
        self,
        flush_secs: float = 5.0,
        purge_step: int | None = None,
        filename_suffix: str = "",
        hparam_metrics: Sequence[str] = ("episode/return", "episode/length"),
        video_format: Literal["gif", "webp"] = "gif",
    ) -> None:
        if not (math.isfinite(flush_secs) and flush_secs > 0):
            raise ConfigurationError(
                f"`flush_secs` must be a positive number of seconds; got {flush_secs!r}"
            )
        if purge_step is not None and not 0 <= purge_step < 2**63:
            raise ConfigurationError(
                f"`purge_step` must be a step from 0 on, or None; got {purge_step!r}"
            )
        if any(character in filename_suffix for character in "/\\\0"):
            raise ConfigurationError(
                f"`filename_suffix` ends a file's name and can't hold a path separator; "
                f"got {filename_suffix!r}"
            )
        if isinstance(hparam_metrics, str):
            raise ConfigurationError(
                f"`hparam_metrics` must be a sequence of tags; got the string {hparam_metrics!r}: "
                f"write `[{hparam_metrics!r}]`"
            )
        if video_format not in ("gif", "webp"):
            raise ConfigurationError(
                f'`video_format` must be "gif" or "webp", which TensorBoard shows; got '
                f"{video_format!r}"
            )
        self.flush_secs = float(flush_secs)
        self.video_format = video_format
        self.purge_step = purge_step
        self.filename_suffix = filename_suffix
        self.hparam_metrics = tuple(hparam_metrics)
        self._lock = threading.Lock()
        self._open: dict[str, _OpenRun] = {}
        self._closed: set[str] = set()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Creates the run's event file.

        Args:
            run: The run; `run.directory` exists.

        Raises:
            OSError: The file can't be created or written.
            ClosedError: The run was closed before.
        """
        self._opened(run).files.open()

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Stores hyper-parameters for the HPARAMS tab: in the run's own file, or with each lane.

        Args:
            run: The run; where its lanes are described, the tab compares them, each with the
                hyper-parameters of its own.
            hparams: Name to value.

        Raises:
            OSError: There is no room left in memory, and the disk takes nothing.
        """
        opened = self._find(run)
        sessions: dict[int | None, dict[str, Scalar | str]] = {
            index: {**hparams, **lane.hparams} for index, lane in enumerate(run.lanes)
        }
        sessions = sessions or {None: dict(hparams)}
        opened.files.append(
            {
                lane: events.hparams_events(of_lane, self.hparam_metrics)
                for lane, of_lane in sessions.items()
            }
        )
        opened.sessions |= set(sessions)

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Stores records, each as one event in the file of its lane.

        Args:
            run: The run.
            records: In the order in which they are stored, lane by lane.

        Raises:
            OSError: There is no room left in memory, and the disk takes nothing. None of the
                records was taken.
            LoggingError: A step is no int64. None of the records was taken.
        """
        files = self._find(run).files
        encoded: dict[int | None, list[bytes]] = {}
        for record in records:
            encoded.setdefault(record.lane, []).append(events.scalar_event(record))
        files.append(encoded)

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Stores a text for the TEXT tab.

        Args:
            run: The run.
            text: Its `text` is shown as Markdown.

        Raises:
            OSError: There is no room left in memory, and the disk takes nothing.
        """
        self._find(run).files.append({text.lane: [events.text_event(text)]})

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        """Stores a clip for the IMAGES tab, encoded already or here.

        Args:
            run: The run.
            video: The record.

        Raises:
            VideoError: The clip can't be encoded.
            OSError: There is no room left in memory, and the disk takes nothing.
        """
        files = self._find(run).files
        files.append({video.lane: [events.video_event(video, self.video_format)]})

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        """Stores a picture for the IMAGES tab.

        Args:
            run: The run.
            image: The record.

        Raises:
            OSError: There is no room left in memory, and the disk takes nothing.
        """
        self._find(run).files.append({image.lane: [events.image_event(image)]})

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        """Stores a histogram for the HISTOGRAMS tab.

        Args:
            run: The run.
            histogram: The record.

        Raises:
            OSError: There is no room left in memory, and the disk takes nothing.
        """
        self._find(run).files.append({histogram.lane: [events.histogram_event(histogram)]})

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        """Writes everything that was logged; then it survives a SIGKILL of this process.

        Args:
            run: The run.

        Raises:
            OSError: What could not be written is kept for the next call.
        """
        self._find(run).files.flush()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Ends the HPARAMS session, writes everything and closes the run's `SummaryWriter`.

        Closing a run again does nothing.

        Args:
            run: The run.
            status: `"finished"`, `"failed"` or `"interrupted"`.

        Raises:
            OSError: Something could not be written; the run is open still.
        """
        if status not in _STATUSES:
            raise ConfigurationError(f"`status` must be one of {_STATUSES}; got {status!r}")
        if run.id in self._closed:
            return
        opened = self._find(run)
        if opened.writer is not None:
            opened.writer.close()
        end = [events.session_end_event(status)]
        opened.files.append(dict.fromkeys(opened.sessions, end))
        opened.sessions.clear()
        opened.files.close()
        with self._lock:
            self._closed.add(run.id)
            del self._open[run.id]

    def writer(self, run: RunInfo) -> SummaryWriter:
        """Hands out a tensorboardX `SummaryWriter` on the run, for whatever has no hook.

        For any thread, and at any time before the run is closed. It writes into the run's own
        event file; `close_run` closes it.

        Args:
            run: The run.

        Returns:
            The run's writer, the same one every time.

        Raises:
            ClosedError: The run was closed.
        """
        opened = self._opened(run)
        with self._lock:
            if opened.writer is None:
                opened.writer = RunWriter(run.directory, opened.files)
            return opened.writer

    def _opened(self, run: RunInfo) -> _OpenRun:
        with self._lock:
            if run.id in self._closed:
                raise _closed_error(run)
            if run.id not in self._open:
                purge_step = run.resume_step if self.purge_step is None else self.purge_step
                files = RunFiles(run, self.filename_suffix, purge_step)
                self._open[run.id] = _OpenRun(files)
            return self._open[run.id]

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
    files: RunFiles
    writer: RunWriter | None = None
    sessions: set[int | None] = field(default_factory=set)


def _closed_error(run: RunInfo) -> ClosedError:
    return ClosedError(
        f"run `{run.name}` was closed: log before `close`, or start a new run to log more"
    )
