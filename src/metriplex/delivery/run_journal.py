"""The journal of an open run: one worker writes it, the others read records again."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final, get_args

import numpy as np

from metriplex.delivery.calls import Call, Gap, log_entries
from metriplex.errors import ConfigurationError
from metriplex.journal import (
    MAX_BYTES,
    Close,
    FsyncPolicy,
    JournalWriter,
    Resume,
    read_entries,
    superseded,
)
from metriplex.journal.acks import clamp_acks
from metriplex.plugins.hookspecs import BACKEND_HOOKS
from metriplex.validation import check_choice, check_count, check_positive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metriplex.delivery.calls import Queued
    from metriplex.records import RunInfo

logger = logging.getLogger("metriplex")


@final
class RunJournal:
    """Writes a run's records, on a worker's thread, and reads them for workers that lag behind.

    If the run is resumed, `begin` supersedes its earlier records at `run.resume_step` and beyond.

    Args:
        run: The run; its directory exists.
        flush_secs: Longest time in seconds that records wait in memory.
        fsync: As for `JournalWriter`.
        max_bytes: As for `JournalWriter`.

    Attributes:
        start: Number of the first record of this process.

    Raises:
        ConfigurationError: Another process writes the run's journal, or a backend's state is
            damaged.
        OSError: The journal can't be created, read or written.
    """

    name = "journal"
    hooks = frozenset(BACKEND_HOOKS)

    def __init__(
        self,
        run: RunInfo,
        *,
        flush_secs: float = 1.0,
        fsync: FsyncPolicy = "flush",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.flush_secs = flush_secs
        self._run_dir = run.directory
        self._resume_step = run.resume_step
        self._writer = JournalWriter(run.directory, run, fsync=fsync, max_bytes=max_bytes)
        # The number of the resumption is taken, though it is written later.
        self.start = self._settled = self._writer.next_number + (run.resume_step is not None)
        try:
            clamp_acks(run.directory, self.start)
        except BaseException:
            self.discard()
            raise
        self._failing = False
        self._changed = threading.Condition()

    def begin(self) -> None:
        """Supersede what a resumed run continues without, before the first call.

        Raises:
            ConfigurationError: The disk refuses it; nothing is superseded.
        """
        if self._resume_step is None:
            return
        self._writer.append(self.start - 1, [Resume(self._resume_step)])
        try:
            self._writer.flush()
        except OSError as error:
            raise _unusable(self._run_dir, error) from error

    def call(self, call: Call, run: RunInfo) -> None:  # noqa: ARG002 - a journal is of one run
        """Write the records of a call, as a backend would. The worker's thread calls.

        After an `OSError`, nothing of the call is lost or written twice if it is made again.
        """
        settled = 0
        try:
            if call.hook == "flush":
                self._writer.flush()
                settled = call.end
            elif call.hook == "close_run":
                self._writer.append(call.end, [Close(call.arguments["status"])])
                self._writer.flush()
                settled = call.end + 1
            elif call.records:
                self._writer.append(call.first, call.records)
        except BaseException:
            self._settle(failing=True)
            raise
        self._settle(settled)

    def release(self) -> None:
        """Close the files, after the worker has ended; then another process may write the run."""
        with contextlib.suppress(OSError):  # the worker has logged it
            self._writer.close()

    def discard(self) -> None:
        """Close the files instead of `begin`, and remove what was added to the journal."""
        self._writer.discard()

    def read(self, first: int, end: int) -> Iterator[Queued]:
        """Yield the calls that deliver records `first` to `end`, without `end`. Any thread.

        Wait for records that are still to be written. A gap stands for those that the journal could
        not write so far: the disk is full, for example.
        """
        skip = superseded(self._run_dir) if first < self.start else None
        while first < end:
            upto = min(self._wait_beyond(first), end)
            if upto <= first:
                yield Gap(first, end)
                return
            entries = read_entries(self._run_dir, first, damage=self._warn)
            yield from log_entries(entries, first, upto, skip)
            first = upto

    def _wait_beyond(self, number: int) -> int:
        """Return the number below which everything is written or dropped.

        Wait until it is greater than `number`, or the journal can't be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failing or self._settled > number)
            return self._settled

    def _settle(self, settled: int = 0, *, failing: bool = False) -> None:
        with self._changed:
            self._settled = max(self._settled, settled)
            self._failing = failing
            self._changed.notify_all()

    def _warn(self, damage: str) -> None:
        logger.warning("journal in `%s`: %s", self._run_dir, damage)


def open_journal(run: RunInfo, options: Mapping[str, Any] | None) -> RunJournal | None:
    """Open a run's journal with options of `RunJournal`; None for no journal.

    Raises:
        ConfigurationError: Another process writes it, or the disk refuses it.
    """
    if options is None:
        return None
    try:
        return RunJournal(run, **options)
    except OSError as error:
        raise _unusable(run.directory, error) from error


def _unusable(run_dir: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"the journal in {str(run_dir)!r} can't be opened ({type(error).__name__}: {error}): mend "
        f"that, give another `log_dir`, or pass `journal=False`"
    )


def check_journal(journal: Any) -> dict[str, Any] | None:
    """Return the options of a run's journal; None for no journal.

    Raises:
        ConfigurationError: They aren't usable.
    """
    if isinstance(journal, bool | np.bool_):
        return {} if journal else None
    known = ("flush_secs", "fsync", "max_bytes")
    if not isinstance(journal, Mapping) or not set(journal) <= set(known):
        raise ConfigurationError(
            f"`journal` must be True, False or a dictionary of {', '.join(known)}; got {journal!r}"
        )
    options = dict(journal)
    if "fsync" in options:
        check_choice("fsync", options["fsync"], get_args(FsyncPolicy))
    if "max_bytes" in options:
        options["max_bytes"] = check_count("max_bytes", options["max_bytes"], least=1)
    if "flush_secs" in options:
        options["flush_secs"] = check_positive("flush_secs", options["flush_secs"])
    return options
