"""One thread and one bounded queue for each backend of a run."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, final

from metriplex.delivery import calls
from metriplex.delivery.calls import Call, CallQueue, Gap
from metriplex.delivery.failure_log import FailureLog
from metriplex.delivery.retry import RETRY_SECONDS
from metriplex.delivery.sender import Sender
from metriplex.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.delivery.calls import Queued
    from metriplex.delivery.run_journal import RunJournal
    from metriplex.delivery.sender import Target
    from metriplex.journal.acks import Ack
    from metriplex.records import RunInfo


@final
class Worker:
    """Calls one backend's hooks, one after another, from a thread of its own.

    `submit` never blocks and never raises; a failing backend affects nothing else.

    Args:
        target: The backend, or the run's journal.
        run: The run.
        queue_size: Records that may wait in memory.
        retry_seconds: Pauses between the tries of a call that raised an `OSError`.
        start: Number of the first record that will be submitted.
        patient: True if tries go on for as long as the run is open, as for `Sender`.
        journal: Where records are read again that found no room in memory; without it they are
            dropped.
        ack: The backend's acknowledgement on disk. If it is before `start`, the records in between
            are delivered first.
        begin: Event for which the thread waits before its first call; None to begin at once.
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
        begin: threading.Event | None = None,
    ) -> None:
        self.target = target
        self._begin = begin
        self._log = FailureLog(target.name, run.name)
        self._sender = Sender(
            target,
            run,
            retry_seconds=retry_seconds,
            patient=patient,
            ack=ack,
            start=start if ack is None else ack.acked,
            counted=start,
            log=self._log,
        )
        self._journal = journal
        self._ack = ack
        self._queue = CallQueue(queue_size, rereads=journal is not None)
        self._drops = journal is None
        self._changed = threading.Condition()
        self._end = start
        self._submitted = 0
        self._given_up = False
        self._closing = False
        self._ended = False
        if self._sender.position < start:
            self._queue.leave(self._sender.position, start)
        self._thread = threading.Thread(
            target=self._work, name=f"metriplex-{target.name}", daemon=True
        )
        self._thread.start()

    def say_present(self) -> None:
        """Save the acknowledgement, before the thread begins.

        So the backend is known to a run that dies at once, and gets its records if that goes on.
        """
        if self._ack is not None:
            with contextlib.suppress(OSError):  # the journal reports a disk that takes nothing
                self._ack.save()

    def submit(self, call: Call) -> None:
        """Queue a call after all earlier ones, if the backend has its hook. Any thread."""
        with self._changed:
            self._end = call.end
            if call.hook not in self.target.hooks:
                return
            self._submitted += len(call.records)
            if self._sender.suspended or self._closing or self._ended:
                return
            kept = self._queue.add(call)
            self._changed.notify()
            if kept or not self._drops:
                return
            self._drops = False
        self._log.overflow(self._queue.size)

    def start_flush(self) -> threading.Event:
        """Queue a flush; return an event that is set when it was made or abandoned. Any thread."""
        done = threading.Event()
        with self._changed:
            if self._sender.suspended or self._ended:
                done.set()
            else:
                self._queue.add(calls.flush(self._end, done))
                self._changed.notify()
        return done

    def start_close(self, status: str) -> None:
        """Queue the last call, and end pauses between tries. Any thread."""
        self._sender.skip_pauses()
        with self._changed:
            self._closing = True
            self._queue.add(calls.close_run(self._end, status))
            self._changed.notify()

    def discard(self) -> None:
        """End the thread without a call, once the event that it waits for is set. Any thread."""
        with self._changed:
            self._ended = True

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end, after `start_close` or `discard`; True if it has ended."""
        self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    def delivery(self) -> Delivery:
        """Return how many records were delivered so far. Any thread."""
        with self._changed:
            delivered = self._sender.delivered
            return Delivery(
                backend=self.target.name,
                delivered=delivered,
                undelivered=self._submitted - delivered,
                error=self._sender.error,
                suspended=self._sender.suspended,
            )

    def needs_replay(self) -> bool:
        """Return True if a replay would send something, after the thread has ended."""
        return self._ack is not None and bool(self._ack.missed or self._ack.acked < self._end)

    # ---- the worker's thread --------------------------------------------------------------------

    def _work(self) -> None:
        if self._begin is not None:
            self._begin.wait()
        try:
            if not self._ended:
                self._sender.open()
            while not self._ended:
                self._give_up_if_suspended()
                queued = self._next()
                if queued is None:
                    self._sender.flush()
                elif isinstance(queued, Gap):
                    if self._journal is not None:
                        reread = self._journal.read(queued.first, queued.end)
                        self._sender.fill(reread, queued.end)
                elif queued.hook == "close_run":
                    self._sender.close(queued)
                    return
                elif queued.hook == "flush":
                    self._sender.flush(queued.end)
                    self._give_up_if_suspended()
                    if queued.done is not None:
                        queued.done.set()
                else:
                    self._sender.deliver(queued)
        finally:
            with self._changed:
                self._ended = True
                for done in self._queue.events():
                    done.set()

    def _next(self) -> Queued | None:
        """Wait for the next call; return None when it is time to flush."""
        with self._changed:
            while True:
                if not self._queue and not self._sender.suspended:
                    self._sender.position = self._end  # beyond records that have no hook
                wait = self._sender.seconds_to_flush()
                if wait is not None and wait <= 0:
                    return None
                if self._queue:
                    return self._queue.take()
                self._changed.wait(wait)

    def _give_up_if_suspended(self) -> None:
        hook = self._sender.suspended_in
        if hook is None or self._given_up:
            return
        self._given_up = True
        with self._changed:
            waiting = self._queue.give_up()
        self._log.suspension(hook, waiting)
