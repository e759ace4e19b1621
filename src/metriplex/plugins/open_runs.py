"""The life cycle of a backend's runs: opened once, found by every hook, closed once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar, final

from metriplex.errors import ClosedError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.records import RunInfo

T = TypeVar("T")

_STATUSES = ("finished", "failed", "interrupted")


@final
class OpenRuns(Generic[T]):
    """The open runs of one backend object, each with a value: a file, a client, a buffer.

    A run is identified by `RunInfo.id`. It is opened and closed at most once, also if two threads
    call `open` or `close` for it at the same time; runs don't wait for each other. A call that
    raises changes nothing, so that it can be made again.

    Examples:
        A backend that appends to a list for each run:

        >>> from metriplex import OpenRuns, hookimpl
        >>> class ListBackend:
        ...     def __init__(self):
        ...         self._runs = OpenRuns()
        ...     @hookimpl
        ...     def open_run(self, run):
        ...         self._runs.open(run, lambda run: [])
        ...     @hookimpl
        ...     def log_scalars(self, run, records):
        ...         self._runs.find(run).extend(records)
        ...     @hookimpl
        ...     def close_run(self, run, status):
        ...         self._runs.close(run, status, lambda records: print(status, len(records)))

        >>> from pathlib import Path
        >>> from metriplex import RunInfo, Scalars
        >>> run = RunInfo(id="1", name="walk", directory=Path("logs/walk"), start_time=0.0)
        >>> backend = ListBackend()
        >>> backend.open_run(run)
        >>> backend.log_scalars(run, [Scalars(step=1, values={"loss": 0.5})])
        >>> backend.close_run(run, "finished")
        finished 1
        >>> backend.close_run(run, "finished")
        >>> backend.log_scalars(run, [])
        Traceback (most recent call last):
        ...
        metriplex.errors.ClosedError: run `walk` was closed: log before `close`, or start a new ...
    """

    def __init__(self) -> None:
        self._values: dict[str, T] = {}
        self._closed: set[str] = set()
        self._locks: dict[str, threading.Lock] = {}

    def open(self, run: RunInfo, make: Callable[[RunInfo], T]) -> T:
        """Open a run, and return its value; an open run keeps the value that it has.

        Args:
            run: The run.
            make: Called with `run` if the run is not open; returns the run's value.

        Returns:
            The run's value.

        Raises:
            ClosedError: The run was closed.
            Exception: Raised by `make`; the run is not open.
        """
        with self._lock(run):
            if run.id in self._closed:
                raise _closed_error(run)
            if run.id not in self._values:
                self._values[run.id] = make(run)
            return self._values[run.id]

    def find(self, run: RunInfo) -> T:
        """Return the value of an open run.

        Raises:
            ClosedError: The run was closed, or never opened.
        """
        try:
            return self._values[run.id]
        except KeyError:
            if run.id in self._closed:
                raise _closed_error(run) from None
            raise ClosedError(
                f"run `{run.name}` is not open: call `open_run` before any other hook"
            ) from None

    def close(
        self, run: RunInfo, status: str, end: Callable[[T], object] | None = None
    ) -> T | None:
        """Close a run; do nothing if the run was closed before.

        Args:
            run: The run.
            status: `"finished"`, `"failed"` or `"interrupted"`, as `close_run` gets it.
            end: Called with the run's value if the run is open; writes what waits and releases
                what the run holds. If `end` raises, the run stays open, and the call can be made
                again. None: the caller does this once, with the value that is returned.

        Returns:
            The run's value; None if the run was closed before.

        Raises:
            ClosedError: The run was never opened.
            ConfigurationError: `status` is none of the three.
            Exception: Raised by `end`.
        """
        if status not in _STATUSES:
            raise ConfigurationError(f"`status` must be one of {_STATUSES}; got {status!r}")
        with self._lock(run):
            if run.id in self._closed:
                return None
            value = self.find(run)
            if end is not None:
                end(value)
            self._closed.add(run.id)
            return self._values.pop(run.id)

    def _lock(self, run: RunInfo) -> threading.Lock:
        return self._locks.setdefault(run.id, threading.Lock())


def _closed_error(run: RunInfo) -> ClosedError:
    return ClosedError(
        f"run `{run.name}` was closed: log before `close`, or start a new run to log more"
    )
