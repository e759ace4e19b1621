"""Replaying the runs of a TensorBoard log directory to backends."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import final

from metriplex.errors import ConfigurationError
from metriplex.event_files.reader import EventRun, event_runs
from metriplex.journal import (
    Entry,
    Resume,
)
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.plugins.backends import make_backends
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations
from metriplex.replay.sender import Progress, Replayed, send

STATE = ".metriplex"
"""Where it is kept what backends have of a directory that no journal is in."""


@final
class EventSource:
    """One lane of a run in TensorBoard's event files.

    Args:
        events: The run, with one lane.

    Raises:
        OSError: A file can't be read.
    """

    status = "finished"

    def __init__(self, events: EventRun) -> None:
        (directory,) = events.directories.values()
        self._events = events
        self._state = directory / STATE
        self.run = dataclasses.replace(events.info, directory=self._state)
        self.end = 0
        self._resumes: list[tuple[int, int]] = []
        for entry in events.entries():
            self.end = entry.number + 1
            if isinstance(entry.record, Resume):
                self._resumes.append((entry.number, entry.record.step))

    def read(self, first: int) -> Iterator[Entry]:
        """Its records from a number on, in order."""
        return itertools.islice(self._events.entries(), first, None)

    def skips(self, entry: Entry) -> bool:
        """Whether a later session has superseded a record."""
        step = getattr(entry.record, "step", None)
        return step is not None and any(
            number > entry.number and step >= limit for number, limit in self._resumes
        )

    def load_ack(self, name: str) -> Ack:
        """What a backend has of it."""
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
    """Sends the runs of a TensorBoard log directory, whoever wrote it, to backends.

    What they have is kept beside the event files, in `.metriplex`.

    Args:
        log_dir: The log directory: each directory in it that holds event files is a run.
        backends: Names, or `{name: options}`, of installed backends.
        everything: Whether all is sent, also what they have acknowledged.
        progress: Is told how far it is.

    Returns:
        For each run, lane and backend what became of it.

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
        for source in map(EventSource, _lanes(run))
        for backend in make_backends(backends)  # new ones, as a backend opens a run once
    ]


def _lanes(events: EventRun) -> list[EventRun]:
    """Each lane by itself: its events are numbered, and more of them may come later."""
    return [EventRun(events.info, {lane: path}) for lane, path in events.directories.items()]
