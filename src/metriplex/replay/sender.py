"""Sending to one backend what it has not acknowledged of a run."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

from metriplex.delivery import calls
from metriplex.delivery.worker import FAILURES, RETRY_SECONDS
from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from metriplex.delivery.calls import Call
    from metriplex.journal import Entry
    from metriplex.journal.acks import Ack
    from metriplex.plugins.backends import Backend
    from metriplex.records import RunInfo

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
            self._call(calls.open_run())
            try:
                for call in itertools.chain([first], pending):
                    self._deliver(call)
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
            self._call(calls.close_run(0, self._source.status))

    def _pending(self) -> Iterator[Call]:
        """The calls that are owed; `_reached` follows what lies between them."""
        for first, end in self._owed:
            entries = self._within(first, end)
            for call in calls.log_entries(entries, self._source.skips):
                if call.hook in self._backend.hooks:
                    yield call
            self._reached = max(self._reached, end)

    def _within(self, first: int, end: int) -> Iterable[Entry]:
        if first < end:
            for entry in self._source.read(first):
                if entry.number >= end:
                    return
                yield entry

    def _deliver(self, call: Call) -> None:
        if self._call(call):
            self._sent += len(call.records)
            self._failures = 0
        else:
            self._failed.append((call.first, call.end))
        self._reached = max(self._reached, call.end)
        self._done += call.end - call.first
        self._tell()
        if time.monotonic() - self._flushed_at >= self._backend.flush_secs:
            self._flush()

    def _flush(self) -> None:
        if self._call(calls.flush(0)):
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

    def _call(self, call: Call) -> bool:
        """Makes one call; whether it succeeded."""
        if call.hook not in self._backend.hooks:
            return True
        for pause in (*self._retry_seconds, None):
            try:
                self._backend.call(call, self._run)
            except OSError as error:
                self._error = f"{type(error).__name__}: {error}"
                if pause is None:
                    self._retry_seconds = ()  # the last calls are tried once
                    raise _GivenUpError from error
                time.sleep(pause)
            except Exception as error:
                self._error = f"{type(error).__name__}: {error}"
                self._failures += 1
                if call.hook == "open_run" or self._failures >= FAILURES:
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
