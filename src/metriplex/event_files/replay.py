"""Replay of the runs of a TensorBoard log directory."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, final

from metriplex.delivery.calls import log_entries
from metriplex.errors import ConfigurationError
from metriplex.event_files.reader import STATE, EventRun, event_runs
from metriplex.files import make_directory
from metriplex.journal import Resume
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.journal.reader import superseded_by
from metriplex.plugins.backends import make_backends
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations
from metriplex.replay.send import Progress, Replayed, send

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metriplex.delivery.calls import Queued


@final
class EventSource:
    """One lane of a run in TensorBoard's event files."""

    status = "finished"

    def __init__(self, events: EventRun, damage: Sequence[str] = ()) -> None:
        (directory,) = events.directories.values()
        self._events = events
        self._state = directory / STATE
        self.run = dataclasses.replace(events.info, directory=self._state)
        self.end = 0
        resumes: list[tuple[int, int]] = []
        self.damage = [*damage]
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
        path = ack_path(self._state, name)
        try:
            make_directory(path.parent, inside=self._state.parent)
            return load_ack(self._state, name) or Ack(path)
        except OSError as error:
            raise ConfigurationError(
                f"`{path}` can't be written ({type(error).__name__}: {error}), without which a "
                f"repetition would send everything twice: mend that, or replay a copy of the log "
                f"directory"
            ) from error


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
        ConfigurationError: There is no event file, or the acknowledgements can't be written.
        PluginError: A backend is not installed, or broken, or `crc32c` isn't installed.
    """
    damage: list[str] = []
    runs = event_runs(Path(log_dir), damage.append)
    if not runs:
        raise ConfigurationError(
            ". ".join([f"there are no event files of TensorBoard in {str(log_dir)!r}", *damage])
        )
    return [
        (source.run, send(source, backend, everything=everything, progress=progress))
        for run in runs
        for lane, path in run.directories.items()  # numbered apart, as more events may come later
        for source in [EventSource(EventRun(run.info, {lane: path}), damage)]
        for backend in make_backends(backends)  # new ones, as a backend opens a run once
    ]
