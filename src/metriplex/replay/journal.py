"""Replay of a run from its journal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, final

from metriplex.delivery.calls import log_entries
from metriplex.errors import ConfigurationError
from metriplex.journal import (
    Close,
    next_number,
    read_entries,
    read_run,
    superseded,
    take_lock,
)
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.plugins.backends import make_backends
from metriplex.replay.send import Progress, Replayed, send

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metriplex.delivery.calls import Queued


@final
class JournalSource:
    """A run's journal, which is only read. While it is open here, no other process can write it.

    Args:
        run_dir: The run's directory.

    Raises:
        ConfigurationError: There is no journal, or a process still writes it.
        OSError: It can't be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run = read_run(run_dir)
        self._lock = take_lock(run_dir)
        try:
            self.end = next_number(run_dir)
            self._skip = superseded(run_dir)
        except BaseException:
            os.close(self._lock)
            raise
        self._run_dir = run_dir
        self._damage: dict[str, None] = {}  # in order, each once

    @property
    def status(self) -> str:
        """The status of its last `Close`; a run that ends without one was killed."""
        for entry in read_entries(self._run_dir, max(self.end - 1, 0)):
            if isinstance(entry.record, Close):
                return entry.record.status
        return "interrupted"

    @property
    def damage(self) -> Sequence[str]:
        """A sentence about each part that could not be read so far."""
        return list(self._damage)

    def read(self, first: int, end: int) -> Iterator[Queued]:
        """Yield the calls that deliver records, without superseded ones, and gaps of lost ones."""
        entries = read_entries(self._run_dir, first, damage=self._damage.setdefault)
        return log_entries(entries, first, end, self._skip)

    def load_ack(self, name: str) -> Ack:
        """Return a backend's acknowledgement, which is empty if it never saw the run."""
        return load_ack(self._run_dir, name) or Ack(ack_path(self._run_dir, name))

    def close(self) -> None:
        """Release the journal: another process may write it again."""
        os.close(self._lock)


def replay_run(
    run_dir: Path,
    backends: object,
    *,
    everything: bool = False,
    progress: Progress | None = None,
) -> list[Replayed]:
    """Send to backends the records of a run that they have not acknowledged.

    A replay may be interrupted and repeated: records that a backend has acknowledged are not sent
    twice.

    Args:
        run_dir: The run's directory.
        backends: As for `MetricsCallback`. A backend that had another name in the run (`name_2`)
            is asked for by that.
        everything: True to send all records, also those that they have acknowledged.
        progress: Called after each call of a backend.

    Returns:
        One result for each backend.

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
