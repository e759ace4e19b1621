"""One thread and one bounded queue for each backend of a run."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, final

from metriplex.records import Delivery, RunInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.plugins import Backend

logger = logging.getLogger("metriplex")

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 10.0)
"""Pauses between the tries of a call that raised an `OSError`; the last failure suspends."""

FAILURES = 3
"""How many calls in a row may raise something else before the backend is suspended."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    """One call that a worker owes its backend.

    Attributes:
        hook: The hook to call.
        argument: The hook's argument beside `run`, and its name.
        records: How many records the call delivers.
        done: Set when the call was made or given up.
    """

    hook: str
    argument: tuple[str, Any] | None = None
    records: int = 0
    done: threading.Event | None = None


@final
class Worker:
    """Calls one backend's hooks, one after another, from a thread of its own.

    `submit` never blocks and never raises: whatever the backend does, it does to itself alone.
    """

    def __init__(
        self,
        backend: Backend,
        run: RunInfo,
        *,
        queue_size: int,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        self.backend = backend
        self._run = run
        self._queue_size = queue_size
        self._retry_seconds = retry_seconds
        self._tasks: collections.deque[_Task] = collections.deque()
        self._changed = threading.Condition()
        self._waiting = 0
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
        self._thread = threading.Thread(
            target=self._work, name=f"metriplex-{backend.name}", daemon=True
        )
        self._thread.start()

    def submit(self, hook: str, argument: tuple[str, Any], records: int) -> None:
        """Queues a call; what is over `queue_size` waiting records is dropped. Any thread.

        Args:
            hook: The hook to call; nothing happens if the backend doesn't have it.
            argument: The hook's argument beside `run`: its name and value, a tuple for several
                records.
            records: How many records that are.
        """
        if hook not in self.backend.hooks:
            return
        with self._changed:
            self._submitted += records
            if self._suspended or self._closing or self._ended:
                return
            kept = min(records, self._queue_size - self._waiting)
            if kept:
                name, value = argument
                if kept < records:
                    value = value[:kept]
                self._waiting += kept
                self._tasks.append(_Task(hook, (name, value), kept))
                self._changed.notify()
            if kept == records or self._overflowed:
                return
            self._overflowed = True
        logger.warning(
            "backend `%s` is too slow or hangs: %d records wait for it; newer ones are dropped for "
            "this backend until it has caught up, and counted",
            self.backend.name,
            self._queue_size,
        )

    def start_flush(self) -> threading.Event:
        """Queues a flush; the event is set when it has been made or given up. Any thread."""
        done = threading.Event()
        with self._changed:
            if self._suspended or self._ended:
                done.set()
            else:
                self._tasks.append(_Task("flush", done=done))
                self._changed.notify()
        return done

    def start_close(self, status: str) -> None:
        """Queues the last call, and cuts pauses between tries short. Any thread."""
        self._hurry.set()
        with self._changed:
            self._closing = True
            self._tasks.append(_Task("close_run", ("status", status)))
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Waits for the thread to end, after `start_close`; whether it has."""
        self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    def delivery(self) -> Delivery:
        """What has become of the records so far. Any thread."""
        with self._changed:
            return Delivery(
                backend=self.backend.name,
                delivered=self._delivered,
                undelivered=self._submitted - self._delivered,
                error=self._error,
                suspended=self._suspended,
            )

    # ---- the worker's thread --------------------------------------------------------------------

    def _work(self) -> None:
        try:
            opened = self._call(_Task("open_run"))
            while (task := self._next_task()).hook != "close_run":
                if task.hook == "flush":
                    self._flush()
                elif not self._suspended:
                    self._deliver(task)
                if task.done is not None:
                    task.done.set()
            self._flush()
            if opened:
                self._call(task)
        finally:
            with self._changed:
                self._ended = True
                for task in self._tasks:
                    if task.done is not None:
                        task.done.set()

    def _next_task(self) -> _Task:
        """Waits for the next call: a flush that is due, or scalars that wait in a row as one."""
        with self._changed:
            while True:
                wait = None
                if self._dirty:
                    wait = self._flushed_at + self.backend.flush_secs - time.monotonic()
                    if wait <= 0:
                        return _Task("flush")
                if self._tasks:
                    break
                self._changed.wait(wait)
            task = self._tasks.popleft()
            if task.hook == "log_scalars" and task.argument is not None:
                name, records = task.argument
                more = [records]
                while self._tasks and self._tasks[0].hook == "log_scalars":
                    argument = self._tasks.popleft().argument
                    more.append(argument[1] if argument else ())
                joined = tuple(itertools.chain.from_iterable(more))
                task = _Task("log_scalars", (name, joined), len(joined))
            self._waiting -= task.records
            return task

    def _deliver(self, task: _Task) -> None:
        if self._call(task):
            with self._changed:
                self._delivered += task.records
            self._failures = 0
            self._dirty = True

    def _flush(self) -> None:
        self._dirty = False
        if not self._suspended and "flush" in self.backend.hooks:
            self._dirty = not self._call(_Task("flush"))
        self._flushed_at = time.monotonic()

    def _call(self, task: _Task) -> bool:
        """Makes one call, again after an `OSError`; whether it succeeded."""
        arguments = dict([task.argument]) if task.argument else {}
        last = False
        for pause in (*self._retry_seconds, None):
            try:
                self.backend.call(task.hook, run=self._run, **arguments)
            except OSError as error:
                self._note(error)
                if pause is None or last:
                    self._fail(task, error)
                    return False
            except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends nobody's run
                self._note(error)
                self._fail(task, error)
                return False
            else:
                return True
            last = self._hurry.wait(pause)
        return False

    def _note(self, error: BaseException) -> None:
        with self._changed:
            self._error = _describe(error)

    def _fail(self, task: _Task, error: BaseException) -> None:
        """Tells of a call that was given up, and suspends the backend if it keeps failing."""
        logger.error(
            "backend `%s` failed in `%s` (%s); %d record(s) did not reach it; training and the "
            "other backends go on",
            self.backend.name,
            task.hook,
            _describe(error),
            task.records,
            exc_info=error,
        )
        self._failures += 1
        hopeless = task.hook == "open_run" or isinstance(error, OSError)
        if task.hook != "close_run" and (hopeless or self._failures >= FAILURES):
            self._suspend(task.hook)

    def _suspend(self, hook: str) -> None:
        with self._changed:
            self._suspended = True
            waiting, self._waiting = self._waiting, 0
            kept = [task for task in self._tasks if task.hook in ("flush", "close_run")]
            self._tasks = collections.deque(kept)
        logger.error(
            "backend `%s` is suspended for the rest of run `%s`: it kept failing in `%s`; %d "
            "waiting record(s) and all further ones do not reach it",
            self.backend.name,
            self._run.name,
            hook,
            waiting,
        )


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - a plugin's exception may fail to print itself
        return type(error).__name__
