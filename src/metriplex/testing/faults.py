"""Fakes that fail, for whoever calls backends and has to bear what they do.

    backend = FaultyBackend({"log_scalars": [None, raises(ConnectionError("gone"))]})

Its first call of `log_scalars` succeeds, the second one raises, all later ones succeed.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
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

Fault: TypeAlias = Callable[[], None]
"""What a call does before it succeeds, if it does: it may raise, wait or never return."""

Plan: TypeAlias = Fault | Sequence[Fault | None]
"""A fault of every call, or of the next ones in order, where None is a call that succeeds."""


def raises(error: BaseException) -> Fault:
    """Raises an exception, the same object at every call."""

    def fault() -> NoReturn:
        raise error

    return fault


def hangs(until: threading.Event) -> Fault:
    """Does not return before the event is set."""

    def fault() -> None:
        until.wait()

    return fault


def slow(seconds: float) -> Fault:
    """Takes its time at every call, in seconds."""

    def fault() -> None:
        threading.Event().wait(seconds)

    return fault


def exits(status: int = 1) -> Fault:
    """Leaves by `sys.exit`, as a program does that takes itself for the only one."""

    def fault() -> None:
        sys.exit(status)

    return fault


def ends_the_process(status: int = 1) -> Fault:
    """Ends the process at once, without `atexit` or `finally`: as native code does that aborts."""

    def fault() -> None:
        os._exit(status)

    return fault


def out_of_memory() -> Fault:
    """Raises what a failed allocation raises."""
    return raises(MemoryError("no memory is left"))


def disk_full() -> Fault:
    """Raises what a write to a full disk raises."""
    return raises(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


@final
class Outage:
    """A service that is unreachable from `begin` to `end`; a fault that may be of many hooks.

    For any thread.

    Attributes:
        refused: How many calls have been refused.
        refused_one: Set as soon as one was.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.refused_one = threading.Event()
        self._down = threading.Event()

    def begin(self) -> None:
        """From now on calls are refused."""
        self._down.set()

    def end(self) -> None:
        """From now on calls succeed."""
        self._down.clear()

    def __call__(self) -> None:
        """Refuses a call, if the service is down.

        Raises:
            ConnectionRefusedError: It is.
        """
        if self._down.is_set():
            self.refused += 1
            self.refused_one.set()
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


@final
class FaultyBackend:
    """A backend with all hooks that fails and hangs by plan, and keeps what its calls brought.

    Attributes:
        flush_secs: As of any backend.
        calls: All calls that were begun: hook, argument, thread.
        done: The calls of them that succeeded: hook, argument.
        begun: For each hook, released at each call.

    Args:
        plans: What goes wrong in which hook; the others succeed.
        flush_secs: As of any backend.
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
        """The hooks that were called, in order."""
        return [hook for hook, _, _ in self.calls]

    def records(self) -> list[Scalars]:
        """All the scalars that it took."""
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
        """As planned."""
        self._call("open_run", run)

    @hookimpl
    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """As planned."""
        self._call("log_hparams", hparams)

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        """As planned."""
        self._call("log_scalars", records)

    @hookimpl
    def log_text(self, text: Text) -> None:
        """As planned."""
        self._call("log_text", text)

    @hookimpl
    def log_video(self, video: Video) -> None:
        """As planned."""
        self._call("log_video", video)

    @hookimpl
    def log_image(self, image: Image) -> None:
        """As planned."""
        self._call("log_image", image)

    @hookimpl
    def log_histogram(self, histogram: Histogram) -> None:
        """As planned."""
        self._call("log_histogram", histogram)

    @hookimpl
    def log_artifact(self, artifact: Artifact) -> None:
        """As planned."""
        self._call("log_artifact", artifact)

    @hookimpl
    def flush(self) -> None:
        """As planned."""
        self._call("flush", None)

    @hookimpl
    def close_run(self, status: str) -> None:
        """As planned."""
        self._call("close_run", status)


def _each(plan: Plan) -> Iterator[Fault | None]:
    """The fault of each call, in order."""
    return iter(plan) if isinstance(plan, Sequence) else itertools.repeat(plan)
