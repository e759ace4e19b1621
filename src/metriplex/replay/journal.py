"""Sending what a backend has not acknowledged of a run, from the run's journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import final

from metriplex.errors import ConfigurationError
from metriplex.journal import (
    Close,
    Entry,
    JournalWriter,
    read_entries,
    read_run,
    superseded,
)
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.plugins.backends import make_backends
from metriplex.replay.sender import Progress, Replayed, send


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


def replay_run(
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
