"""Replay of the runs of a TensorBoard log directory."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, final

from metriplex.delivery.calls import log_entries
from metriplex.errors import ConfigurationError
from metriplex.event_files.reader import EventRun, event_runs
from metriplex.journal import Resume
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.journal.reader import superseded_by
from metriplex.plugins.backends import make_backends
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations
from metriplex.replay.send import Progress, Replayed, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metriplex.delivery.calls import Queued

STATE = ".metriplex"
"""Directory beside the event files that holds the acknowledgements of backends."""


@final
class EventSource:
    """One lane of a run in TensorBoard's event files."""

    status = "finished"

    def __init__(self, events: EventRun) -> None:
        (directory,) = events.directories.values()
        self._events = events
        self._state = directory / STATE
        self.run = dataclasses.replace(events.info, directory=self._state)
        self.end = 0
        resumes: list[tuple[int, int]] = []
        self.damage: list[str] = []
        for entry in events.entries(self.damage.append):
            self.end = entry.number + 1
            if isinstance(entry.record, Resume):
                resumes.append((entry.number, entry.record.step))
        self._skip = superseded_by(resumes)

    def read(self, first: int, end: int) -> Iterator[Queued]:
        """Yield the calls that deliver records, without those that a resume superseded."""
        entries = itertools.islice(self._events.entries(), first, None)
        return log_entries(entries, first, end, self._skip)

    def load_ack(self, name: str) -> Ack:
        """Return a backend's acknowledgement, which is empty if it never saw the run."""
        self._state.mkdir(exist_ok=True)
        path = ack_path(self._state, name)
        path.parent.mkdir(exist_ok=True)
        return load_ack(self._state, name) or Ack(path)


def replay_events(
    log_dir: Path,
    backends: object,
    *,
    everything: bool = False,
    progress: Progress | None = None,
) -> list[tuple[RunInfo, Replayed]]:
    """Send the runs of a TensorBoard log directory, whatever program wrote it, to backends.

    The backends' acknowledgements are kept beside the event files, in `.metriplex`.

    Args:
        log_dir: The log directory: each directory in it that holds event files is a run.
        backends: Names, or `{name: options}`, of installed backends.
        everything: True to send all records, also those that they have acknowledged.
        progress: Called after each call of a backend.

    Returns:
        The run and the result, for each run, lane and backend.

    Raises:
        ConfigurationError: There is no event file.
        PluginError: A backend is not installed, or broken, or `crc32c` isn't installed.
    """
    runs = [run for run in event_runs(Path(log_dir)) if STATE not in run.info.directory.parts]
    if not runs:
        raise ConfigurationError(f"there are no event files of TensorBoard in {str(log_dir)!r}")
    return [
        (source.run, send(source, backend, everything=everything, progress=progress))
        for run in runs
        for lane, path in run.directories.items()  # numbered apart, as more events may come later
        for source in [EventSource(EventRun(run.info, {lane: path}))]
        for backend in make_backends(backends)  # new ones, as a backend opens a run once
    ]
