"""What a worker owes its backend: calls in their order, in bounded memory."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, final

from metriplex.journal import (
    Close,
    Hparams,
    Resume,
)
from metriplex.plugins.hookspecs import MEDIA_HOOKS
from metriplex.records import Scalars

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from metriplex.journal import Entry


REREAD = "reread"
"""The task that stands for records which are in the journal alone."""

_CONTROL = ("flush", "close_run")


@final
@dataclasses.dataclass(slots=True)
class Task:
    """One call that a worker owes its backend.

    Attributes:
        hook: The hook to call, or `REREAD`.
        argument: The hook's argument beside `run`, and its name.
        first: Number of the first record that it delivers.
        end: The number after the last one. For a call without records both are that of the next.
        records: How many records the call delivers.
        done: Set when the call was made or given up.
    """

    hook: str
    argument: tuple[str, Any] | None = None
    first: int = 0
    end: int = 0
    records: int = 0
    done: threading.Event | None = None


@final
class TaskQueue:
    """Calls that wait. Not for several threads at once.

    Args:
        size: How many records may wait.
        rereads: Whether what is over `size` can be read again later: then it leaves a gap, which
            grows until the worker has come to it, rather than being dropped.
    """

    def __init__(self, size: int, *, rereads: bool) -> None:
        self.size = size
        self.waiting = 0
        self._rereads = rereads
        self._overflowed = False
        self._tasks: collections.deque[Task] = collections.deque()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, task: Task) -> bool:
        """Appends a call; whether all its records are kept in memory."""
        room = 0 if self._overflowed else self.size - self.waiting
        kept = min(task.records, room)
        if kept == task.records:
            self._append(task)
            return True
        if kept and task.argument is not None:
            name, records = task.argument
            middle = task.first + kept
            self._append(Task(task.hook, (name, records[:kept]), task.first, middle, kept))
            task.first = middle
        if self._rereads:
            self._overflowed = True
            self.leave(task.first, task.end)
        return False

    def leave(self, first: int, end: int) -> None:
        """Leaves a gap at the end, or widens the one that is there."""
        if self._tasks and self._tasks[-1].hook == REREAD:
            self._tasks[-1].end = end
        else:
            self._tasks.append(Task(REREAD, first=first, end=end))

    def take(self) -> Task:
        """Removes the next call: scalars that wait in a row are one."""
        task = self._tasks.popleft()
        if task.hook == REREAD:
            self._overflowed = False
        elif task.hook == "log_scalars":
            more = [task]
            while self._tasks and _follows(self._tasks[0], more[-1]):
                more.append(self._tasks.popleft())
            task = join(more) if len(more) > 1 else task
        self.waiting -= task.records
        return task

    def give_up(self) -> int:
        """Drops everything but `flush` and `close_run`; how many records waited in memory."""
        waiting, self.waiting = self.waiting, 0
        kept = [task for task in self._tasks if task.hook in _CONTROL]
        self._tasks = collections.deque(kept)
        return waiting

    def events(self) -> list[threading.Event]:
        """The events of those who wait for a call."""
        return [task.done for task in self._tasks if task.done is not None]

    def _append(self, task: Task) -> None:
        self.waiting += task.records
        self._tasks.append(task)


def _follows(task: Task, before: Task) -> bool:
    return task.hook == "log_scalars" and task.first == before.end


def join(tasks: list[Task]) -> Task:
    """One call of `log_scalars` instead of several that follow each other."""
    records = tuple(
        itertools.chain.from_iterable(task.argument[1] for task in tasks if task.argument)
    )
    return Task("log_scalars", ("records", records), tasks[0].first, tasks[-1].end, len(records))


BATCH = 1000
"""How many records that are read again are given to a backend in one call."""


def calls(entries: Iterable[Entry], skip: Callable[[Entry], bool] | None = None) -> Iterator[Task]:
    """The calls that deliver entries to a backend, scalars by the thousand.

    Args:
        entries: In the order of their numbers.
        skip: Tells which of them are left out.
    """
    waiting: list[Task] = []
    for entry in entries:
        if skip is not None and skip(entry):
            continue
        task = _call(entry)
        if task is None:
            continue
        if waiting and (task.hook != "log_scalars" or len(waiting) == BATCH):
            yield join(waiting)
            waiting = []
        if task.hook == "log_scalars":
            waiting.append(task)
        else:
            yield task
    if waiting:
        yield join(waiting)


def _call(entry: Entry) -> Task | None:
    number, record = entry.number, entry.record
    if isinstance(record, Scalars):
        hook, argument = "log_scalars", ("records", (record,))
    elif isinstance(record, Hparams):
        hook, argument = "log_hparams", ("hparams", record.values)
    elif isinstance(record, Resume | Close):
        return None
    else:
        hook, name = MEDIA_HOOKS[type(record)]
        argument = (name, record)
    return Task(hook, argument, number, number + 1, 1)
