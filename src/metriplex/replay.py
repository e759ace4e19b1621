"""Sending what a backend has not acknowledged of a run, from the run's journal."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

from metriplex.acks import Ack, ack_path, load_ack
from metriplex.discovery import entry_points
from metriplex.errors import ConfigurationError
from metriplex.journal import (
    Close,
    Entry,
    JournalWriter,
    Resume,
    read_entries,
    read_run,
    superseded,
)
from metriplex.journal.event_files import EventRun, event_runs
from metriplex.plugins import Backend, create_backends
from metriplex.recording import calls
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations
from metriplex.workers import FAILURES, RETRY_SECONDS

if TYPE_CHECKING:
    from metriplex.tasks import Task

Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told the backend's name, how many records are done, and how many there are to do."""


class Source(Protocol):
    """Where a run comes from that is sent to backends."""

    @property
    def run(self) -> RunInfo:
        """The run."""

    @property
    def status(self) -> str:
        """How it ended: `finished`, `failed` or `interrupted`."""

    @property
    def end(self) -> int:
        """The number after its last record."""

    def read(self, first: int) -> Iterator[Entry]:
        """Its records from a number on, in order."""

    def skips(self, entry: Entry) -> bool:
        """Whether a record is not to be sent."""

    def load_ack(self, name: str) -> Ack:
        """What a backend has of it."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay to one backend.

    Attributes:
        backend: The backend's name.
        sent: Records that it took.
        left: How many numbers of the run it still lacks, as far as is known.
        error: The last error that it raised, as `Type: message`; None if it raised none.
    """

    backend: str
    sent: int
    left: int
    error: str | None


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


def send(
    source: Source,
    backend: Backend,
    *,
    everything: bool = False,
    progress: Progress | None = None,
    retry_seconds: Sequence[float] = RETRY_SECONDS,
) -> Replayed:
    """Sends what one backend has not acknowledged.

    Args:
        source: The run.
        backend: The backend.
        everything: Whether all is sent.
        progress: Is told how far it is.
        retry_seconds: Pauses between the tries of a call that raised an `OSError`.
    """
    ack = source.load_ack(backend.name)
    if everything:
        ack.acked, ack.missed = 0, []
    return _Sender(source, backend, ack, progress, retry_seconds).send()


class _GivenUpError(Exception):
    """A backend takes nothing more; the error that it raised is the cause."""


@final
class _Sender:
    """Sends one run to one backend, and moves its acknowledgement on after every flush."""

    def __init__(
        self,
        source: Source,
        backend: Backend,
        ack: Ack,
        progress: Progress | None,
        retry_seconds: Sequence[float],
    ) -> None:
        self._source = source
        self._backend = backend
        self._ack = ack
        self._progress = progress
        self._retry_seconds = retry_seconds
        self._run = dataclasses.replace(source.run, resume_step=None)
        self._owed = [*ack.missed, (ack.acked, max(source.end, ack.acked))]
        self._failed: list[tuple[int, int]] = []
        self._failures = 0
        self._reached = 0
        self._sent = 0
        self._done = 0
        self._flushed_at = time.monotonic()
        self._error: str | None = None

    def send(self) -> Replayed:
        """Opens the run, sends what is owed, and closes it."""
        pending = self._pending()
        first = next(pending, None)
        if first is None:  # nothing that the backend could take
            self._acknowledge()
            return self._replayed()
        try:
            self._call("open_run")
            try:
                for task in itertools.chain([first], pending):
                    self._deliver(task)
            finally:
                self._end()
        except _GivenUpError:
            pass
        return self._replayed()

    def _end(self) -> None:
        """Flushes, also after Ctrl-C, and closes."""
        try:
            self._flush()
            self._tell()
        finally:
            self._call("close_run", status=self._source.status)

    def _pending(self) -> Iterator[Task]:
        """The calls that are owed; `_reached` follows what lies between them."""
        for first, end in self._owed:
            entries = self._within(first, end)
            for task in calls(entries, self._source.skips):
                if task.hook in self._backend.hooks:
                    yield task
            self._reached = max(self._reached, end)

    def _within(self, first: int, end: int) -> Iterable[Entry]:
        if first < end:
            for entry in self._source.read(first):
                if entry.number >= end:
                    return
                yield entry

    def _deliver(self, task: Task) -> None:
        arguments = dict([task.argument]) if task.argument else {}
        if self._call(task.hook, **arguments):
            self._sent += task.records
            self._failures = 0
        else:
            self._failed.append((task.first, task.end))
        self._reached = max(self._reached, task.end)
        self._done += task.end - task.first
        self._tell()
        if time.monotonic() - self._flushed_at >= self._backend.flush_secs:
            self._flush()

    def _flush(self) -> None:
        if self._call("flush"):
            self._acknowledge()
        self._flushed_at = time.monotonic()

    def _acknowledge(self) -> None:
        reached = self._reached
        rest = [(max(first, reached), end) for first, end in self._owed[:-1] if end > reached]
        self._ack.acked = max(self._ack.acked, reached)
        self._ack.missed = [*self._failed, *rest]
        try:
            self._ack.save()
        except OSError as error:
            raise ConfigurationError(
                f"`{self._ack.path}` can't be written ({type(error).__name__}: {error}), without "
                f"which a repetition would send everything twice: mend that first"
            ) from error

    def _call(self, hook: str, **arguments: Any) -> bool:
        """Makes one call; whether it succeeded."""
        if hook not in self._backend.hooks:
            return True
        for pause in (*self._retry_seconds, None):
            try:
                self._backend.call(hook, run=self._run, **arguments)
            except OSError as error:
                self._error = f"{type(error).__name__}: {error}"
                if pause is None:
                    self._retry_seconds = ()  # the last calls are tried once
                    raise _GivenUpError from error
                time.sleep(pause)
            except Exception as error:
                self._error = f"{type(error).__name__}: {error}"
                self._failures += 1
                if hook == "open_run" or self._failures >= FAILURES:
                    raise _GivenUpError from error
                return False
            else:
                return True
        return False

    def _tell(self) -> None:
        if self._progress is not None:
            total = sum(end - first for first, end in self._owed)
            done = total if self._reached >= self._source.end else self._done
            self._progress(self._backend.name, done, total)

    def _replayed(self) -> Replayed:
        left = sum(end - first for first, end in self._ack.missed)
        left += max(self._source.end - self._ack.acked, 0)
        return Replayed(self._backend.name, self._sent, left, self._error)
