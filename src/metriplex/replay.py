"""Sending what a backend has not acknowledged of a run, from the run's journal."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import final

from metriplex.errors import ConfigurationError
from metriplex.event_files.reader import EventRun, event_runs
from metriplex.journal import (
    Close,
    Entry,
    JournalWriter,
    Resume,
    read_entries,
    read_run,
    superseded,
)
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.plugins.backends import Backend, create_backends
from metriplex.plugins.discovery import entry_points
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations
from metriplex.sending import Progress, Replayed, send


@final
class JournalSource:
    """A run of metriplex; while it is open here, no other process can write it.

    Args:
        run_dir: The run's directory.

    Raises:
        ConfigurationError: There is no journal, or a process still writes it.
        OSError: It can't be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run = read_run(run_dir)
        self._writer = JournalWriter(run_dir, self.run)
        self.end = self._writer.next_number
        self._skip = superseded(run_dir)
        self._run_dir = run_dir

    @property
    def status(self) -> str:
        """That of its last `Close`; a run that ends without one was killed."""
        for entry in read_entries(self._run_dir, max(self.end - 1, 0)):
            if isinstance(entry.record, Close):
                return entry.record.status
        return "interrupted"

    def read(self, first: int) -> Iterator[Entry]:
        """Its records from a number on, in order."""
        return read_entries(self._run_dir, first)

    def skips(self, entry: Entry) -> bool:
        """Whether a later resume has superseded a record."""
        return self._skip(entry)

    def load_ack(self, name: str) -> Ack:
        """What a backend has of it; nothing for one that never saw it."""
        return load_ack(self._run_dir, name) or Ack(ack_path(self._run_dir, name))

    def close(self) -> None:
        """Lets others write the run again."""
        self._writer.close()


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


def replay(
    run_dir: Path,
    backends: object,
    *,
    everything: bool = False,
    progress: Progress | None = None,
) -> list[Replayed]:
    """Sends to backends what they have not acknowledged of a run.

    It may be interrupted and made again: what a backend has acknowledged is not sent twice.

    Args:
        run_dir: The run's directory.
        backends: As for `MetricsCallback`. A backend that had another name in the run (`name_2`)
            is asked for by that.
        everything: Whether all is sent, also what they have acknowledged.
        progress: Is told how far it is.

    Returns:
        For each backend what became of it.

    Raises:
        ConfigurationError: There is no such run, or a process still writes it.
        PluginError: A backend is not installed, or broken.
    """
    made = make_backends(backends)
    try:
        source = JournalSource(Path(run_dir))
    except OSError as error:
        raise ConfigurationError(
            f"the run in {str(run_dir)!r} can't be replayed ({type(error).__name__}: {error})"
        ) from error
    try:
        return [send(source, one, everything=everything, progress=progress) for one in made]
    finally:
        source.close()


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


def make_backends(requested: object) -> list[Backend]:
    """As `create_backends`; `name_2` makes the second backend of a name again."""
    if not isinstance(requested, Mapping):
        return create_backends(requested)
    installed = {entry.name for entry in entry_points("backend")}
    made = []
    for name, options in requested.items():
        stem = re.sub(r"_\d+$", "", name)
        known = name if name in installed or stem not in installed else stem
        (one,) = create_backends({known: options})
        made.append(Backend(name, one.plugin))
    return made
