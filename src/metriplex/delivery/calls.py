"""Calls of a backend's hooks: how they are made, and the bounded queue in which they wait."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, final

from metriplex.delivery.lazy import Lazy
from metriplex.journal import Close, Hparams, Numbers, Resume
from metriplex.records import Artifact, Histogram, Image, Media, Scalars, Text, Video, read_only

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from metriplex.journal import Entry
    from metriplex.records import Scalar

BATCH = 1000
"""Most records that are read from a journal and passed to a backend in one call."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a hook. Made by the functions below, which are named like the hooks.

    Attributes:
        hook: The hook's name.
        arguments: The hook's arguments beside `run`, by name.
        records: The records that the call delivers, as the journal keeps them.
        first: Number of the first record in the run.
        end: The number after the last one. For a call without records both are that of the next.
        done: Set when the call was made or abandoned.
        numbers: Number of each record, for a call of several.
    """

    hook: str
    arguments: Mapping[str, Any]
    records: Sequence[Scalars | Media | Hparams]
    first: int
    end: int
    done: threading.Event | None = None
    numbers: Sequence[int] = ()

    def count_from(self, number: int) -> int:
        """Return how many records have this number or a greater one."""
        if self.first >= number:
            return len(self.records)
        return sum(one >= number for one in self.numbers)


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Records that are in the journal alone, from number `first` up to `end`, without `end`."""

    first: int
    end: int


Queued: TypeAlias = Call | Gap


def open_run() -> Call:
    """Return the first call of a run."""
    return Call("open_run", {}, (), 0, 0)


def log_hparams(first: int, hparams: Mapping[str, Scalar | str]) -> Call:
    """Return the call that logs hyper-parameters, as record number `first`."""
    hparams = read_only(hparams)
    return Call("log_hparams", {"hparams": hparams}, (Hparams(hparams),), first, first + 1)


def log_scalars(
    first: int, records: Sequence[Scalars], numbers: Sequence[int] | None = None
) -> Call:
    """Return the call that logs scalars with these numbers; None for all from `first` on."""
    if not isinstance(records, Lazy):
        records = tuple(records)
    if numbers is None:
        numbers = range(first, first + len(records))
    end = numbers[-1] + 1 if numbers else first
    return Call("log_scalars", {"records": records}, records, first, end, None, numbers)


def halve(call: Call) -> tuple[Call, Call]:
    """Return two calls that log the same scalars, which are two or more."""
    middle = len(call.records) // 2
    records, numbers = call.arguments["records"], call.numbers
    return (
        log_scalars(call.first, records[:middle], numbers[:middle]),
        log_scalars(numbers[middle], records[middle:], numbers[middle:]),
    )


def log_text(first: int, text: Text) -> Call:
    """Return the call that logs a text, as record number `first`."""
    return Call("log_text", {"text": text}, (text,), first, first + 1)


def log_video(first: int, video: Video) -> Call:
    """Return the call that logs a clip, as record number `first`."""
    return Call("log_video", {"video": video}, (video,), first, first + 1)


def log_image(first: int, image: Image) -> Call:
    """Return the call that logs a picture, as record number `first`."""
    return Call("log_image", {"image": image}, (image,), first, first + 1)


def log_histogram(first: int, histogram: Histogram) -> Call:
    """Return the call that logs a histogram, as record number `first`."""
    return Call("log_histogram", {"histogram": histogram}, (histogram,), first, first + 1)


def log_artifact(first: int, artifact: Artifact) -> Call:
    """Return the call that logs a file or directory, as record number `first`."""
    return Call("log_artifact", {"artifact": artifact}, (artifact,), first, first + 1)


def flush(number: int, done: threading.Event | None = None) -> Call:
    """Return the call that makes all records below `number` durable."""
    return Call("flush", {}, (), number, number, done)


def close_run(number: int, status: str) -> Call:
    """Return the last call of a run, after all records below `number`."""
    return Call("close_run", {"status": status}, (), number, number)


def log_media(first: int, record: Media) -> Call:
    """Return the call that logs a text, a clip, a picture, ..., as record number `first`."""
    match record:
        case Text():
            return log_text(first, record)
        case Video():
            return log_video(first, record)
        case Image():
            return log_image(first, record)
        case Histogram():
            return log_histogram(first, record)
        case Artifact():
            return log_artifact(first, record)


def log_entries(
    entries: Iterable[Entry], first: int, end: int, skip: Callable[[Entry], bool] | None = None
) -> Iterator[Queued]:
    """Yield the calls that deliver a journal's entries to a backend, at most `BATCH` scalars each.

    Gaps at the end stand for entries that could not be read.

    Args:
        entries: Each once, in the order of their numbers where the journal is undamaged.
        first: The number of the first entry that is delivered.
        end: The number of the first entry that is not delivered any more.
        skip: Returns True for entries that are left out; None leaves out none.
    """
    numbers = Numbers(first)
    wanted = (
        _log_entry(entry)
        for entry in _between(entries, numbers, end)
        if skip is None or not skip(entry)
    )
    for hook, same in itertools.groupby(filter(None, wanted), lambda call: call.hook):
        if hook == "log_scalars":
            while batch := list(itertools.islice(same, BATCH)):
                yield _join(batch)
        else:
            yield from same
    for missing in numbers.missing(end):
        yield Gap(missing.start, missing.stop)


def _between(entries: Iterable[Entry], numbers: Numbers, end: int) -> Iterator[Entry]:
    """Yield the entries below `end`; read beyond it only for those that are missing so far."""
    for entry in entries:
        if entry.number < end:
            numbers.take(entry.number)
            yield entry
        elif not numbers.missing(end):
            return


def _log_entry(entry: Entry) -> Call | None:
    match entry.record:
        case Resume() | Close():
            return None
        case Scalars() as record:
            return log_scalars(entry.number, [record])
        case Hparams(values):
            return log_hparams(entry.number, values)
        case record:
            return log_media(entry.number, record)


def _join(calls: Sequence[Call]) -> Call:
    """Return one call of `log_scalars` instead of several that follow each other."""
    if len(calls) == 1:
        return calls[0]
    parts = [call.arguments["records"] for call in calls]
    records = Lazy(sum(map(len, parts)), lambda: itertools.chain.from_iterable(parts))
    numbers: Sequence[int] = range(calls[0].first, calls[-1].end)
    if len(numbers) != len(records):
        numbers = tuple(itertools.chain.from_iterable(call.numbers for call in calls))
    return log_scalars(calls[0].first, records, numbers)


@final
class CallQueue:
    """Calls that wait. Not for several threads at once.

    Args:
        size: How many records may wait; `waiting` is how many wait now.
        rereads: True if records beyond `size` can be read again later. Then they leave a gap, which
            grows until it is taken; otherwise they are dropped.
    """

    def __init__(self, size: int, *, rereads: bool) -> None:
        self.size = size
        self.waiting = 0
        self._rereads = rereads
        self._overflowed = False
        self._queued: collections.deque[Queued] = collections.deque()

    def __bool__(self) -> bool:
        return bool(self._queued)

    def add(self, call: Call) -> bool:
        """Append a call; return True if all its records are kept in memory."""
        room = 0 if self._overflowed else self.size - self.waiting
        kept = min(len(call.records), room)
        if kept == len(call.records):
            self._append(call)
            return True
        first = call.first + kept
        if kept:  # of several records, which only scalars are
            self._append(log_scalars(call.first, call.arguments["records"][:kept]))
        if self._rereads:
            self._overflowed = True
            self.leave(first, call.end)
        return False

    def leave(self, first: int, end: int) -> None:
        """Leave a gap at the end, or widen the one that is there."""
        if self._queued and isinstance(last := self._queued[-1], Gap):
            self._queued[-1] = Gap(last.first, end)
        else:
            self._queued.append(Gap(first, end))

    def take(self) -> Queued:
        """Remove the next call; scalars that follow each other are joined into one call."""
        queued = self._queued.popleft()
        if isinstance(queued, Gap):
            self._overflowed = False
            return queued
        if queued.hook == "log_scalars":
            more = [queued]
            while self._queued and _follows(following := self._queued[0], more[-1]):
                more.append(following)
                self._queued.popleft()
            queued = _join(more)
        self.waiting -= len(queued.records)
        return queued

    def give_up(self) -> int:
        """Drop everything but `flush` and `close_run`; return how many records were waiting."""
        waiting, self.waiting = self.waiting, 0
        kept = (call for call in self._queued if isinstance(call, Call) and not call.records)
        self._queued = collections.deque(kept)
        return waiting

    def events(self) -> list[threading.Event]:
        """Return the events of the threads that wait for a call."""
        calls = (call for call in self._queued if isinstance(call, Call))
        return [call.done for call in calls if call.done is not None]

    def _append(self, call: Call) -> None:
        self.waiting += len(call.records)
        self._queued.append(call)


def _follows(queued: Queued, before: Call) -> TypeGuard[Call]:
    return isinstance(queued, Call) and queued.hook == "log_scalars" and queued.first == before.end
