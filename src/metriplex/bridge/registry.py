"""The one registry of run handles: which sink the rows of a program are for, and how it is closed.

Any thread. This module never imports jax, so that the end of the process can close runs without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

if TYPE_CHECKING:
    from metriplex.bridge.rows import Rows


class Sink(Protocol):
    """Receives the rows that carry its handle."""

    def receive(self, rows: Rows) -> None:
        """Take rows, in order. The receiver thread calls."""


Close: TypeAlias = Callable[[str, bool], object]
"""Closes a run: its status, and True if its program may still run and is not waited for."""


@final
@dataclasses.dataclass(slots=True)
class Entry:
    """One handle, from the registration of its sink on.

    Attributes:
        sink: The sink, until it is closed.
        known: The sink as long as anything refers to it, also after it is closed.
        close: Closes the run at the end of the process; None if there is nothing to close.
        name: Name of the run, once it is closed.
        stopped: True if a signal ended the run, and its program may not have ended yet.
        lost_batches: Batches of rows that came after it was closed.
        lost_rows: Their rows.
    """

    sink: Sink | None
    known: weakref.ref[Sink]
    close: Close | None
    name: str = ""
    stopped: bool = False
    lost_batches: int = 0
    lost_rows: int = 0


_entries: dict[int, Entry] = {}
_handles = itertools.count(1)
_lock = threading.Lock()


def add(sink: Sink, handle: int | None = None, close: Close | None = None) -> int:
    """Register a sink until `retire`, and return its handle.

    Args:
        sink: The sink.
        handle: A handle that nothing else has; None for the next one of this process.
        close: Closes the run, if it is still open at the end of the process.
    """
    with _lock:
        handle = next(_handles) if handle is None else handle
        _entries[handle] = Entry(sink, weakref.ref(sink), close)
    return handle


def get(handle: int) -> Entry | None:
    """Return the entry of a handle; None if this process has never registered it."""
    return _entries.get(handle)


def retire(handle: int, name: str, *, stopped: bool) -> None:
    """Release the sink of a closed run.

    Later rows are counted, and reported under `name`, unless a signal has `stopped` the run.
    """
    with _lock:
        entry = _entries.get(handle)
        if entry is not None and entry.sink is not None:
            entry.sink = entry.close = None
            entry.name, entry.stopped = name, stopped


def remove(handle: int) -> None:
    """Forget a handle that no program has."""
    with _lock:
        _entries.pop(handle, None)


def closers() -> list[Close]:
    """Return what closes each run that is open, in the order of registration."""
    with _lock:
        return [entry.close for entry in _entries.values() if entry.close is not None]


def _forget_in_child() -> None:
    """A forked child must not close the runs of its parent."""
    global _lock
    _lock = threading.Lock()
    _entries.clear()


with contextlib.suppress(AttributeError):  # no fork on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
