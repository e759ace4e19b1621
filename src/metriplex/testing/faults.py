"""Fake backends that fail, for tests of code that calls backends.

    backend = FaultyBackend({"log_scalars": [None, raises(ConnectionError("gone"))]})

The first call of `log_scalars` succeeds, the second call raises, all later calls succeed.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, final

from metriplex.plugins.hookspecs import BACKEND_HOOKS, hookimpl

if TYPE_CHECKING:
    from metriplex.records import (
        Artifact,
        Histogram,
        Image,
        RunInfo,
        Scalar,
        Scalars,
        Text,
        Video,
    )

Fault: TypeAlias = Callable[[], object]
"""A function that a call runs before it succeeds; it may raise, wait or never return."""

Plan: TypeAlias = Fault | Sequence[Fault | None]
"""A fault of every call, or faults of the next calls in order; None is a call that succeeds."""


def raises(error: BaseException) -> Fault:
    """Return a fault that raises `error`, the same object at every call."""

    def fault() -> NoReturn:
        raise error

    return fault


def hangs(until: threading.Event) -> Fault:
    """Return a fault that waits until an event is set."""
    return until.wait


def slow(seconds: float) -> Fault:
    """Return a fault that waits for some seconds."""
    return functools.partial(time.sleep, seconds)


def exits(status: int = 1) -> Fault:
    """Return a fault that calls `sys.exit`."""
    return functools.partial(sys.exit, status)


def ends_the_process(status: int = 1) -> Fault:
    """Return a fault that ends the process without `atexit` or `finally`, like an abort."""
    return functools.partial(os._exit, status)


def out_of_memory() -> Fault:
    """Return a fault that raises the error of a failed allocation."""
    return raises(MemoryError("no memory is left"))


def disk_full() -> Fault:
    """Return a fault that raises the error of a write to a full disk."""
    return raises(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


@final
class Outage:
    """A fault that refuses calls from `begin` to `end`, which several hooks can share. Thread-safe.

    Attributes:
        refused: Number of refused calls.
        refused_one: Event that the first refused call sets.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.refused_one = threading.Event()
        self._down = threading.Event()

    def begin(self) -> None:
        """Refuse calls from now on."""
        self._down.set()

    def end(self) -> None:
        """Let calls succeed from now on."""
        self._down.clear()

    def __call__(self) -> None:
        """Refuse a call during the outage.

        Raises:
            ConnectionRefusedError: The outage has begun and not ended.
        """
        if self._down.is_set():
            self.refused += 1
            self.refused_one.set()
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


@final
class FaultyBackend:
    """A backend with all hooks that fails by plan, and stores its calls.

    Attributes:
        flush_secs: Seconds between flushes, as for any backend.
        calls: All calls: hook, argument, thread.
        done: The calls that succeeded: hook, argument.
        begun: For each hook, a semaphore that each call releases.

    Args:
        plans: Hook to its plan; other hooks succeed.
        flush_secs: Seconds between flushes, as for any backend.
    """

    def __init__(
        self, plans: Mapping[str, Plan] | None = None, *, flush_secs: float = 3600.0
    ) -> None:
        self.flush_secs = flush_secs
        self.calls: list[tuple[str, object, threading.Thread]] = []
        self.done: list[tuple[str, object]] = []
        self.begun = {hook: threading.Semaphore(0) for hook in BACKEND_HOOKS}
        self._plans = {hook: _each(plan) for hook, plan in (plans or {}).items()}

    def hooks(self) -> list[str]:
        """Return the names of the called hooks, in order."""
        return [hook for hook, _, _ in self.calls]

    def records(self) -> list[Scalars]:
        """Return all records of scalars whose calls succeeded."""
        taken: list[Any] = [argument for hook, argument in self.done if hook == "log_scalars"]
        return [record for records in taken for record in records]

    def _call(self, hook: str, argument: object) -> None:
        self.calls.append((hook, argument, threading.current_thread()))
        self.begun[hook].release()
        fault = next(self._plans.get(hook, iter(())), None)
        if fault is not None:
            fault()
        self.done.append((hook, argument))

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self._call("open_run", run)

    @hookimpl
    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        self._call("log_hparams", hparams)

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self._call("log_scalars", records)

    @hookimpl
    def log_text(self, text: Text) -> None:
        self._call("log_text", text)

    @hookimpl
    def log_video(self, video: Video) -> None:
        self._call("log_video", video)

    @hookimpl
    def log_image(self, image: Image) -> None:
        self._call("log_image", image)

    @hookimpl
    def log_histogram(self, histogram: Histogram) -> None:
        self._call("log_histogram", histogram)

    @hookimpl
    def log_artifact(self, artifact: Artifact) -> None:
        self._call("log_artifact", artifact)

    @hookimpl
    def flush(self) -> None:
        self._call("flush", None)

    @hookimpl
    def close_run(self, status: str) -> None:
        self._call("close_run", status)


def _each(plan: Plan) -> Iterator[Fault | None]:
    """Return an iterator over the faults of the calls."""
    return iter(plan) if isinstance(plan, Sequence) else itertools.repeat(plan)
