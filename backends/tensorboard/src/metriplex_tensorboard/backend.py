"""The hooks of the TensorBoard backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence  # noqa: TC003 - hook signatures are public
from dataclasses import dataclass, field
from typing import Literal, final

from tensorboardX import SummaryWriter  # noqa: TC002 - part of public annotations

from metriplex import (
    ConfigurationError,
    Histogram,
    Image,
    OpenRuns,
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


@final
class TensorBoardBackend:
    """Write runs as event files that TensorBoard shows.

    A run is written into `run.directory`; a lane of a vmapped axis into a directory below it
    (`seed_000`, ..., or the lane's name), which TensorBoard shows as a run of its own. All the
    values of a step make one event. Events wait in memory, about a megabyte of them, until `flush`;
    after `flush` they survive the end of this process, also by SIGKILL.

    Args:
        flush_secs: The longest time in seconds that events wait in memory.
        purge_step: TensorBoard drops what earlier files in the run's directory hold at this step
            and beyond. None: `run.resume_step`, if the run continues an earlier one.
        filename_suffix: Ends the names of the event files, which are unique without it.
        hparam_metrics: Tags of the scalars that the HPARAMS tab shows beside the hyper-parameters.
        video_format: Format of stored clips: `"gif"`, or animated `"webp"`, which is smaller and
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
        self._runs = OpenRuns[_OpenRun]()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Create the run's event file now, to fail early if the directory can't be written."""
        self._open(run).files.open()

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Store hyper-parameters for the HPARAMS tab, in the run's own file.

        If the run's lanes are described, the file of each lane gets them instead, with the lane's
        own, and the tab compares the lanes.
        """
        opened = self._runs.find(run)
        sessions: dict[int | None, Mapping[str, Scalar | str]] = {
            index: {**hparams, **lane.hparams} for index, lane in enumerate(run.lanes)
        } or {None: hparams}
        opened.files.append(
            {
                lane: events.hparams_events(own, self.hparam_metrics)
                for lane, own in sessions.items()
            }
        )
        opened.sessions.update(sessions)

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Store each record as one event in the file of its lane; all records, or none."""
        encoded: dict[int | None, list[bytes]] = {}
        for record in records:
            encoded.setdefault(record.lane, []).append(events.scalar_event(record))
        self._runs.find(run).files.append(encoded)

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        self._append(run, text, events.text_event(text))

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        self._append(run, video, events.video_event(video, self.video_format))

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        self._append(run, image, events.image_event(image))

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        self._append(run, histogram, events.histogram_event(histogram))

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        self._runs.find(run).files.flush()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """End the HPARAMS session, write everything and close the run's `SummaryWriter`."""
        self._runs.close(run, status, lambda opened: opened.close(status))

    def writer(self, run: RunInfo) -> SummaryWriter:
        """Return a tensorboardX `SummaryWriter` on the run, for data without a hook.

        Any thread may call it, at any time before the run is closed. The writer writes into the
        run's own event file; after `close_run` it raises `metriplex.ClosedError`.

        Args:
            run: The run.

        Returns:
            The run's writer, the same one every time.

        Raises:
            ClosedError: The run was closed.
        """
        return self._open(run).writer

    def _open(self, run: RunInfo) -> _OpenRun:
        return self._runs.open(run, self._make)

    def _make(self, run: RunInfo) -> _OpenRun:
        purge_step = run.resume_step if self.purge_step is None else self.purge_step
        files = RunFiles(run, self.filename_suffix, purge_step)
        return _OpenRun(files, RunWriter(run.directory, files))

    def _append(self, run: RunInfo, record: Text | Video | Image | Histogram, event: bytes) -> None:
        self._runs.find(run).files.append({record.lane: [event]})


@final
@dataclass(frozen=True, slots=True)
class _OpenRun:
    files: RunFiles
    writer: RunWriter
    sessions: set[int | None] = field(default_factory=set)

    def close(self, status: str) -> None:
        end = [events.session_end_event(status)]
        self.files.append(dict.fromkeys(self.sessions, end))
        self.sessions.clear()  # `close` may be called again after an `OSError`
        self.files.close()
