"""Sending calls to one backend: retries, suspension, flushes and acknowledgements."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, TypeAlias, final

from metriplex.delivery import calls
from metriplex.delivery.calls import Call, Gap
from metriplex.delivery.failure_log import FailureLog, describe
from metriplex.delivery.retry import RETRY_SECONDS, retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metriplex.delivery.calls import Queued
    from metriplex.delivery.run_journal import RunJournal
    from metriplex.journal.acks import Ack
    from metriplex.plugins.backends import Backend
    from metriplex.records import RunInfo

    Target: TypeAlias = Backend | RunJournal

FAILURES = 3
"""Calls in a row that raise something else than `OSError`, after which a backend is suspended."""

OUTAGE = 5
"""Failed tries of one call after which the log reports an outage."""


@final
class Sender:
    """Sends calls to one backend, one after another. For one thread.

    A call that raises `OSError` is made again after a pause; the last failure suspends the backend.
    After another exception the records are sent in halves, until the one that the backend refuses
    is alone: it is skipped, and `FAILURES` in a row suspend the backend. A suspended backend gets
    no more records.

    Args:
        target: The backend, or the run's journal.
        run: The run.
        retry_seconds: Pauses between the tries of a call that raised an `OSError`.
        patient: True if tries go on, with the last pause, until `skip_pauses`.
        ack: The backend's acknowledgement on disk.
        start: Number of the first record that may be delivered.
        counted: Number of the first record that `delivered` counts.
        log: Logs failures; None for a caller that reports them otherwise.
        on_unsaved: Called if the acknowledgement can't be written; None ignores it: a replay then
            sends more than it has to.

    Attributes:
        position: Everything below this number was delivered, skipped, or has no hook.
        delivered: How many records the backend has taken and, if it has the hook, flushed.
        error: The last error that the backend raised, as `Type: message`; None if it raised none.
        suspended_in: The hook whose failure suspended the backend; None if it is not suspended.
    """

    def __init__(
        self,
        target: Target,
        run: RunInfo,
        *,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        patient: bool = False,
        ack: Ack | None = None,
        start: int = 0,
        counted: int = 0,
        log: FailureLog | None = None,
        on_unsaved: Callable[[OSError], None] | None = None,
    ) -> None:
        self.target = target
        self.position = start
        self.delivered = 0
        self._taken = 0  # and not flushed yet
        self._counted = counted
        self.error: str | None = None
        self.suspended_in: str | None = None
        self._run = run
        self._retry_seconds = retry_seconds
        self._patient = patient
        self._ack = ack
        self._log = log
        self._on_unsaved = on_unsaved
        self._skipped: list[Gap] = []
        self._failures = 0
        self._opened = False
        self._dirty = False
        self._flushed_at = -float("inf")
        self._no_pauses = threading.Event()

    @property
    def suspended(self) -> bool:
        """True if the backend gets no more records."""
        return self.suspended_in is not None

    def skip_pauses(self) -> None:
        """End the pause before the next try, which is the last one of its call. Any thread."""
        self._no_pauses.set()

    def open(self) -> bool:
        """Open the run in the backend; return True if it succeeded."""
        self._opened = self._call(calls.open_run())
        return self._opened

    def deliver(self, call: Call) -> None:
        """Deliver records, unless the backend is suspended or lacks the hook. Opens the run."""
        if call.hook not in self.target.hooks:
            return
        waiting = [call]
        while waiting and self._is_ready():
            part = waiting.pop()
            error = self._try(part)
            if error is None:
                self._take(part)
            elif len(part.records) > 1 and not isinstance(error, OSError):
                waiting += reversed(calls.halve(part))
            else:
                self._fail(part, error)

    def _is_ready(self) -> bool:
        return not self.suspended and (self._opened or self.open())

    def fill(self, reread: Iterable[Queued], end: int) -> None:
        """Deliver records that are read again, up to number `end`; flush every `flush_secs`.

        A gap among them stands for records that can't be read yet, which are skipped.
        """
        for queued in reread:
            if isinstance(queued, Gap):
                self._skip(queued)
            else:
                self.deliver(queued)
            if self.suspended:
                return
            if (due := self.seconds_to_flush()) is not None and due <= 0:
                self.flush()
        self.position = end

    def seconds_to_flush(self) -> float | None:
        """Return how long records may still wait for `flush`; None if there is nothing to flush."""
        if not self._dirty or self.suspended:
            return None
        return self._flushed_at + self.target.flush_secs - time.monotonic()

    def flush(self, reached: int = 0) -> None:
        """Flush and acknowledge, also all numbers below `reached`, unless suspended."""
        if not self.suspended:
            self.position = max(self.position, reached)
            self._flush()

    def close(self, call: Call) -> None:
        """Flush and make the call of `close_run`, if the run was opened."""
        try:
            if not self.suspended:
                self.flush(call.end)
            elif self._dirty:  # a replay need not send again what the backend took before
                self._flush()
        finally:
            if self._opened:
                self._call(call)

    def _flush(self) -> None:
        position = self.position
        flushes = self._opened and "flush" in self.target.hooks
        self._dirty = flushes and not self._call(calls.flush(position))
        if not self._dirty:
            self.delivered += self._taken
            self._taken = 0
            self._acknowledge(position)
        self._flushed_at = time.monotonic()

    def _acknowledge(self, position: int) -> None:
        if self._ack is None:
            return
        for gap in self._skipped:
            self._ack.miss(gap.first, gap.end)
        self._skipped.clear()
        self._ack.advance(position)
        try:
            self._ack.save()
        except OSError as error:
            if self._on_unsaved is not None:
                self._on_unsaved(error)

    def _skip(self, gap: Gap) -> None:
        """Pass records that are not delivered; a replay can send them if there is a journal."""
        self._skipped.append(gap)
        self.position = max(self.position, gap.end)

    def _take(self, call: Call) -> None:
        """Count the records of a call that the backend has taken."""
        self._taken += call.count_from(self._counted)
        self._failures = 0
        self._dirty = True
        self.position = call.end
        if "flush" not in self.target.hooks:
            self.delivered, self._taken = self.delivered + self._taken, 0

    def _call(self, call: Call) -> bool:
        """Make one call, again after an `OSError`; return True if it succeeded."""
        error = self._try(call)
        if error is not None:
            self._fail(call, error)
        return error is None

    def _try(self, call: Call) -> BaseException | None:
        """Make one call, again after an `OSError`; return what the last try raised."""
        failed_tries = 0

        def wait(pause: float, error: OSError) -> bool:
            nonlocal failed_tries
            failed_tries += 1
            self.error = describe(error)
            if failed_tries == OUTAGE and self._patient and self._log is not None:
                self._log.outage(call, error)
            return self._no_pauses.wait(pause)

        try:
            retry(lambda: self.target.call(call, self._run), self._pauses(), wait)
        except BaseException as error:
            # Ctrl-C comes in the main thread alone, where a replay runs. In a worker's thread also
            # KeyboardInterrupt and SystemExit are a plugin's own: they must not end the thread.
            ctrl_c = isinstance(error, KeyboardInterrupt)
            if ctrl_c and threading.current_thread() is threading.main_thread():
                raise
            return error
        if failed_tries >= OUTAGE and self._log is not None:
            self._log.recovery()
        return None

    def _pauses(self) -> Iterable[float]:
        more = itertools.repeat(self._retry_seconds[-1]) if self._patient else ()
        return itertools.chain(self._retry_seconds, more)

    def _fail(self, call: Call, error: BaseException) -> None:
        """Note an abandoned call; suspend a backend that keeps failing."""
        self.error = describe(error)
        if self._log is not None:
            self._log.failure(call, error)
        self._failures += 1
        if call.records and not isinstance(error, OSError):  # an outage skips nothing
            self._skip(Gap(call.first, call.end))
        hopeless = call.hook == "open_run" or isinstance(error, OSError)
        if call.hook != "close_run" and (hopeless or self._failures >= FAILURES):
            self.suspended_in = call.hook
            self.skip_pauses()
