"""One thread and one bounded queue for each backend of a run."""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, final

from metriplex.plugins import Backend
from metriplex.records import Delivery, RunInfo, Scalars

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
        self._overflowed = False
        self._dirty = False
        self._hurry = threading.Event()
        self._flushed_at = -float("inf")
        self._thread = threading.Thread(
            target=self._work, name=f"metriplex-{backend.name}", daemon=True
        )
        self._thread.start()

    def submit(self, hook: str, argument: tuple[str, Any], records: int) -> None:
        """Queues a call; over `queue_size` waiting records it is dropped and counted. Any thread."""
        if hook not in self.backend.hooks:
            return
        with self._changed:
            self._submitted += records
            if self._suspended:
                return
            if not self._waiting or self._waiting + records <= self._queue_size:
                self._waiting += records
                self._tasks.append(_Task(hook, argument, records))
                self._changed.notify()
                return
            known, self._overflowed = self._overflowed, True
        if not known:
            logger.warning(
                "backend `%s` is too slow or hangs: more than %d records wait for it; newer ones "
                "are dropped for this backend until it has caught up",
                self.backend.name,
                self._queue_size,
            )

    def start_flush(self) -> threading.Event:
        """Queues a flush; the event is set when it has been made. Any thread."""
        done = threading.Event()
        with self._changed:
            if self._suspended or not self._thread.is_alive():
                done.set()
            else:
                self._tasks.append(_Task("flush", done=done))
                self._changed.notify()
        return done

    def start_close(self, status: str) -> None:
        """Queues the last call. Any thread."""
        with self._changed:
            self._tasks.append(_Task("close_run", ("status", status)))
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Waits for the thread to end; whether it has. Cuts pauses between tries short."""
        self._hurry.set()
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
        opened = self._call(_Task("open_run"))
        if not opened:
            self._suspend("open_run")
        while True:
            task = self._next_task()
            if task is None:
                self._flush()
            elif task.hook == "flush":
                self._flush()
            elif task.hook == "close_run":
                self._flush()
                if opened:
                    self._call(task)
                return
            else:
                self._deliver(task)
            if task is not None and task.done is not None:
                task.done.set()

    def _next_task(self) -> _Task | None:
        """The next call, or None when it is time to flush; joins scalars that wait in a row."""
        with self._changed:
            while not self._tasks:
                wait = None
                if self._dirty:
                    wait = self._flushed_at + self.backend.flush_secs - time.monotonic()
                    if wait <= 0:
                        return None
                self._changed.wait(wait)
            if self._dirty and time.monotonic() >= self._flushed_at + self.backend.flush_secs:
                return None
            task = self._tasks.popleft()
            if task.hook != "log_scalars":
                self._waiting -= task.records
                return task
            records: list[Scalars] = list(task.argument[1]) if task.argument else []
            while self._tasks and self._tasks[0].hook == "log_scalars":
                argument = self._tasks.popleft().argument
                records += argument[1] if argument else ()
            self._waiting -= len(records)
            return _Task("log_scalars", ("records", records), len(records))

    def _deliver(self, task: _Task) -> None:
        if self._suspended:
            return
        if self._call(task):
            with self._changed:
                self._delivered += task.records
            self._failures = 0
            self._dirty = True
        else:
            self._failures += 1
            if self._failures >= FAILURES:
                self._suspend(task.hook)

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if self._suspended:
            return
        self._dirty = False
        if "flush" in self.backend.hooks and not self._call(_Task("flush")):
            self._failures += 1
            if self._failures >= FAILURES:
                self._suspend("flush")

    def _call(self, task: _Task) -> bool:
        """Makes one call, again after an `OSError`; whether it succeeded."""
        arguments = dict([task.argument]) if task.argument else {}
        for pause in (*self._retry_seconds, None):
            try:
                self.backend.call(task.hook, run=self._run, **arguments)
            except OSError as error:
                self._note(error)
                if pause is None or self._hurry.is_set():
                    self._report(task, error)
                    self._failures = FAILURES
                    return False
                self._hurry.wait(pause)
            except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends nobody's run
                self._note(error)
                self._report(task, error)
                return False
            else:
                return True
        return False

    def _note(self, error: BaseException) -> None:
        with self._changed:
            self._error = f"{type(error).__name__}: {error}"

    def _report(self, task: _Task, error: BaseException) -> None:
        logger.error(
            "backend `%s` failed in `%s` (%s: %s); %d record(s) did not reach it; training and "
            "the other backends go on",
            self.backend.name,
            task.hook,
            type(error).__name__,
            error,
            task.records,
            exc_info=error,
        )

    def _suspend(self, hook: str) -> None:
        with self._changed:
            if self._suspended:
                return
            self._suspended = True
            waiting, self._waiting = self._waiting, 0
            kept: Callable[[_Task], bool] = lambda task: task.hook in ("flush", "close_run")  # noqa: E731
            self._tasks = collections.deque(filter(kept, self._tasks))
        logger.error(
            "backend `%s` is suspended for the rest of run `%s`: it kept failing in `%s`; %d "
            "waiting record(s) and all further ones do not reach it",
            self.backend.name,
            self._run.name,
            hook,
            waiting,
        )
