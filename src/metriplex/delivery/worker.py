"""One thread and one bounded queue for each backend of a run."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol, final

from metriplex.delivery import calls
from metriplex.delivery.calls import Call, CallQueue, Gap
from metriplex.records import Delivery, RunInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from metriplex.delivery.calls import Queued
    from metriplex.delivery.run_journal import RunJournal
    from metriplex.journal.acks import Ack

logger = logging.getLogger("metriplex")

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 10.0)
"""Pauses between the tries of a call that raised an `OSError`; the last failure suspends."""

FAILURES = 3
"""How many calls in a row may raise something else before the backend is suspended."""


OUTAGE = 5
"""How many tries of one call fail before the log says that they go on."""


class Target(Protocol):
    """What a worker calls: a backend, or the run's journal."""

    flush_secs: float

    @property
    def name(self) -> str:
        """Its name in the run."""

    @property
    def hooks(self) -> Collection[str]:
        """The hooks that it has."""

    def call(self, call: Call, run: RunInfo) -> None:
        """Call a hook of a run."""


@final
class Worker:
    """Calls one backend's hooks, one after another, from a thread of its own.

    `submit` never blocks and never raises: whatever the backend does, it does to itself alone.

    Args:
        target: The backend.
        run: The run.
        queue_size: Records that may wait in memory.
        retry_seconds: Pauses between the tries of a call that raised an `OSError`.
        start: Number of the first record that will be submitted.
        patient: Whether an outage is waited out, with the last pause over and over, for as long as
            the run is open; otherwise the last failure suspends.
        journal: From where records are read again that found no room in memory; without it they
            are dropped.
        ack: What the backend has acknowledged; kept on disk. Where it stands before `start`, what
            is between is delivered first.
    """

    def __init__(
        self,
        target: Target,
        run: RunInfo,
        *,
        queue_size: int,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        start: int = 0,
        patient: bool = False,
        journal: RunJournal | None = None,
        ack: Ack | None = None,
    ) -> None:
        self.target = target
        self._run = run
        self._retry_seconds = retry_seconds
        self._patient = patient
        self._journal = journal
        self._ack = ack
        self._queue = CallQueue(queue_size, rereads=journal is not None)
        self._changed = threading.Condition()
        self._end = start
        self._position = start if ack is None else ack.acked
        self._submitted = 0
        self._delivered = 0
        self._failures = 0
        self._error: str | None = None
        self._suspended = False
        self._closing = False
        self._ended = False
        self._overflowed = False
        self._dirty = False
        self._hurry = threading.Event()
        self._flushed_at = -float("inf")
        if self._position < start:
            self._queue.leave(self._position, start)
        self._thread = threading.Thread(
            target=self._work, name=f"metriplex-{target.name}", daemon=True
        )
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Queue a call; do nothing if the backend doesn't have its hook. Any thread.

        Args:
            call: The call; its first record comes after all earlier calls.
        """
        with self._changed:
            self._end = call.end
            if call.hook not in self.target.hooks:
                return
            self._submitted += len(call.records)
            if self._suspended or self._closing or self._ended:
                return
            kept = self._queue.add(call)
            self._changed.notify()
            if kept or self._overflowed or self._journal is not None:
                return
            self._overflowed = True
        logger.warning(
            "backend `%s` is too slow or hangs: %d records wait for it; newer ones are dropped for "
            "this backend until it has caught up, and counted",
            self.target.name,
            self._queue.size,
        )

    def start_flush(self) -> threading.Event:
        """Queues a flush; the event is set when it has been made or given up. Any thread."""
        done = threading.Event()
        with self._changed:
            if self._suspended or self._ended:
                done.set()
            else:
                self._queue.add(calls.flush(self._end, done))
                self._changed.notify()
        return done

    def start_close(self, status: str) -> None:
        """Queues the last call, and cuts pauses between tries short. Any thread."""
        self._hurry.set()
        with self._changed:
            self._closing = True
            self._queue.add(calls.close_run(self._end, status))
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Waits for the thread to end, after `start_close`; whether it has."""
        self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    def delivery(self) -> Delivery:
        """What has become of the records so far. Any thread."""
        with self._changed:
            return Delivery(
                backend=self.target.name,
                delivered=self._delivered,
                undelivered=self._submitted - self._delivered,
                error=self._error,
                suspended=self._suspended,
            )

    def owes(self) -> bool:
        """Whether a replay would send something, after the thread has ended."""
        return self._ack is not None and bool(self._ack.missed or self._ack.acked < self._end)

    # ---- the worker's thread --------------------------------------------------------------------

    def _work(self) -> None:
        try:
            opened = self._call(calls.open_run())
            while True:
                queued = self._next()
                if isinstance(queued, Gap):
                    self._reread(queued)
                elif queued.hook == "close_run":
                    self._flush(queued.end)
                    if opened:
                        self._call(queued)
                    return
                elif queued.hook == "flush":
                    self._flush(queued.end)
                    if queued.done is not None:
                        queued.done.set()
                elif not self._suspended:
                    self._deliver(queued)
        finally:
            with self._changed:
                self._ended = True
                for done in self._queue.events():
                    done.set()

    def _next(self) -> Queued:
        """Waits for the next call, or for the time of a flush."""
        with self._changed:
            while True:
                if not self._queue and not self._suspended:
                    self._position = self._end  # beyond what the backend has no hook for
                wait = None
                if self._dirty:
                    wait = self._flushed_at + self.target.flush_secs - time.monotonic()
                    if wait <= 0:
                        return calls.flush(0)
                if self._queue:
                    return self._queue.take()
                self._changed.wait(wait)

    def _deliver(self, call: Call) -> None:
        if self._call(call):
            with self._changed:
                self._delivered += len(call.records)
            self._failures = 0
            self._dirty = True
            self._position = call.end

    def _reread(self, gap: Gap) -> None:
        """Delivers from the journal what found no room in memory."""
        if self._journal is None:
            return
        for call in self._journal.read(gap.first, gap.end):
            if self._suspended:
                break
            if isinstance(call, Gap):
                self._miss(call.first, call.end)
            elif call.hook in self.target.hooks:
                self._deliver(call)
            if self._dirty and time.monotonic() - self._flushed_at >= self.target.flush_secs:
                self._flush()
        if not self._suspended:
            self._position = gap.end

    def _miss(self, first: int, end: int) -> None:
        """Passes records that were not delivered; a replay makes up for them if it can."""
        if self._ack is not None:
            self._ack.miss(first, end)
        self._position = end

    def _flush(self, reached: int = 0) -> None:
        """Flushes; everything before `reached` was delivered, or there is no hook for it."""
        self._dirty = False
        if not self._suspended:
            self._position = max(self._position, reached)
        position = self._position
        if not self._suspended and "flush" in self.target.hooks:
            self._dirty = not self._call(calls.flush(position))
        if not self._dirty and not self._suspended:
            self._acknowledge(position)
        self._flushed_at = time.monotonic()

    def _acknowledge(self, position: int) -> None:
        if self._ack is not None:
            self._ack.acked = position
            with contextlib.suppress(OSError):  # then a replay sends more than it has to
                self._ack.save()

    def _call(self, call: Call) -> bool:
        """Makes one call, again after an `OSError`; whether it succeeded."""
        last = False
        for tries, pause in enumerate(self._pauses(), 1):
            try:
                self.target.call(call, self._run)
            except OSError as error:
                self._note(error)
                if pause is None or last:
                    self._fail(call, error)
                    return False
                if tries == OUTAGE:
                    self._tell_of_outage(call, error)
            except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends nobody's run
                self._note(error)
                self._fail(call, error)
                return False
            else:
                if tries > OUTAGE:
                    logger.warning("backend `%s` works again", self.target.name)
                return True
            last = self._hurry.wait(pause)
        return False

    def _pauses(self) -> Iterable[float | None]:
        more = itertools.repeat(self._retry_seconds[-1]) if self._patient else (None,)
        return itertools.chain(self._retry_seconds, more)

    def _note(self, error: BaseException) -> None:
        with self._changed:
            self._error = _describe(error)

    def _tell_of_outage(self, call: Call, error: BaseException) -> None:
        if self._patient:
            logger.warning(
                "backend `%s` keeps failing in `%s` (%s); it is tried again until the run is "
                "closed, and training goes on",
                self.target.name,
                call.hook,
                _describe(error),
            )

    def _fail(self, call: Call, error: BaseException) -> None:
        """Tells of a call that was given up, and suspends the backend if it keeps failing."""
        logger.error(
            "backend `%s` failed in `%s` (%s); %d record(s) did not reach it; training and the "
            "other backends go on",
            self.target.name,
            call.hook,
            _describe(error),
            len(call.records),
            exc_info=error,
        )
        self._failures += 1
        if call.records and not isinstance(error, OSError):  # an outage skips nothing
            self._miss(call.first, call.end)
        hopeless = call.hook == "open_run" or isinstance(error, OSError)
        if call.hook != "close_run" and (hopeless or self._failures >= FAILURES):
            self._suspend(call.hook)

    def _suspend(self, hook: str) -> None:
        with self._changed:
            self._suspended = True
            waiting = self._queue.give_up()
        logger.error(
            "backend `%s` is suspended for the rest of run `%s`: it kept failing in `%s`; %d "
            "waiting record(s) and all further ones do not reach it",
            self.target.name,
            self._run.name,
            hook,
            waiting,
        )


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - a plugin's exception may fail to print itself
        return type(error).__name__
