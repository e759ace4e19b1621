"""Reading a journal, also a damaged one, also while it is being written."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, final

from metriplex.errors import ConfigurationError
from metriplex.journal.codec import HEADERS, decode, decode_header, header_steps
from metriplex.journal.entries import STEPPED, Entry
from metriplex.journal.lines import DamagedLineError, is_sealed, parse, salvage
from metriplex.journal.segments import journal_dir, read_header, segments
from metriplex.journal.tail import number_after
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations

Damage: TypeAlias = Callable[[str], None]
"""Is told, in a sentence, of what can't be read."""

_BLOCK = 2**20
_STEP = re.compile(
    rb'\{"n":\d+,"type":"\w+","step":(-?\d{1,99})'
    rb'(?:,"iteration":(?:null|-?\d+))?(?:,"lane":(null|\d{1,99}))?'
)
_RESUME = b'"type":"resume"'


def has_journal(run_dir: Path) -> bool:
    """Whether there is a journal in a directory."""
    return bool(segments(run_dir))


def read_run(run_dir: Path) -> RunInfo:
    """The run that a journal is of.

    Args:
        run_dir: The run's directory, which may have been moved or copied.

    Raises:
        ConfigurationError: There is no journal, or nothing in it says what run it is of.
        OSError: It can't be read.
    """
    found = segments(run_dir)
    why = "no segment has a header"
    for _, path in reversed(found):
        header = read_header(path)
        if header is not None:
            try:
                return decode_header(header, Path(run_dir))
            except DamagedLineError as error:
                why = f"`{path}` can't be used: {error}"
    if not found:
        raise ConfigurationError(
            f"there is no journal in {str(run_dir)!r}: give the directory of a run (what holds "
            f"`journal/`)"
        )
    raise ConfigurationError(f"the journal in {str(run_dir)!r} can't be used: {why}")


def read_entries(run_dir: Path, start: int = 0, *, damage: Damage | None = None) -> Iterator[Entry]:
    """Reads what a run has logged, in order, up to the last complete line.

    A damaged line is left out, and what is before and after it is read. The journal may be written
    meanwhile, by any thread or process; call again with `start` to go on.

    Args:
        run_dir: The run's directory.
        start: Number of the first entry that is wanted; found without reading what is before.
        damage: Is told of each damaged line, and of numbers that are missing.

    Yields:
        Every entry once. Those that a later `Resume` supersedes are among them: see `superseded`.

    Raises:
        OSError: A segment is there and can't be read.
    """
    run_dir = Path(run_dir)
    tell = damage or _ignore
    for fields in read_lines(run_dir, start, damage=tell):
        try:
            yield Entry(fields["n"], decode(fields, run_dir))
        except DamagedLineError as error:
            tell(f"{journal_dir(run_dir)}: line {fields['n']} is left out: {error}")


def read_lines(run_dir: Path, start: int = 0, *, damage: Damage) -> Iterator[dict[str, Any]]:
    """The lines that `read_entries` decodes, as they are; no files beside them are read."""
    order = _Order(start, damage)
    for path, offset in _places(run_dir, start):
        for line, place in _complete_lines(path, offset, run_dir):
            try:
                found = [parse(line)]
            except DamagedLineError as error:
                found = [*salvage(line)]
                if place is not None:
                    damage(f"{path} at byte {place}: a line is damaged: {error}")
            for fields in found:
                if fields.get("type") not in HEADERS and order.take(fields["n"]):
                    yield fields


def newest_step(run_dir: Path) -> dict[int | None, int]:
    """The greatest step of every lane, without what a later `Resume` supersedes.

    Only the last segment is read: its header has what was before it. A lane of which everything at
    a resume's step or later was superseded is taken to have reached the step before.

    Args:
        run_dir: The run's directory.

    Returns:
        Lane (None for a run that is not vmapped) to environment steps.

    Raises:
        OSError: A segment is there and can't be read.
    """
    found = segments(run_dir)
    steps: dict[int | None, int] = {}
    first = 0
    for index in reversed(range(len(found))):
        header = read_header(found[index][1])
        if header is not None:
            try:
                steps, first = header_steps(header), index
            except DamagedLineError:
                continue
            break
    for _, path in found[first:]:
        for line, _ in _complete_lines(path, 0, run_dir):
            follow_step(line, steps)
    return steps


def next_number(run_dir: Path) -> int:
    """The number after the last entry of a run's journal.

    Raises:
        OSError: A segment is there and can't be read.
    """
    return number_after(segments(run_dir))


def follow_step(line: bytes, steps: dict[int | None, int]) -> None:
    """Takes a line, without its newline, into account of `newest_step`."""
    match = _STEP.match(line)
    if match is None or not is_sealed(line):
        return
    step = int(match[1])
    if match[2] is None:
        steps.update({lane: min(newest, step - 1) for lane, newest in steps.items()})
        return
    lane = None if match[2] == b"null" else int(match[2])
    steps[lane] = max(steps.get(lane, step), step)


def superseded(run_dir: Path) -> Callable[[Entry], bool]:
    """Which entries a later resume has replaced, so that readers get one value a step.

    Args:
        run_dir: The run's directory; its lines are looked through once, quickly.

    Returns:
        Tells of an entry of this journal whether it is superseded.

    Raises:
        OSError: A segment is there and can't be read.
    """
    first = first_superseded(run_dir)

    def is_superseded(entry: Entry) -> bool:
        return isinstance(entry.record, STEPPED) and entry.record.step >= first(entry.number)

    return is_superseded


def first_superseded(run_dir: Path) -> Callable[[int], float]:
    """As `superseded`: for an entry's number, the first step that is superseded, or infinity."""
    numbers: list[int] = []
    limits: list[int] = []
    for number, step in _resumes(run_dir):
        numbers.append(number)
        limits.append(step)
    for index in reversed(range(len(limits) - 1)):
        limits[index] = min(limits[index], limits[index + 1])

    def first(number: int) -> float:
        later = bisect.bisect_right(numbers, number)
        return limits[later] if later < len(limits) else math.inf

    return first


def _resumes(run_dir: Path) -> list[tuple[int, int]]:
    """Number and step of every resume."""
    lines = (
        fields
        for _, path in segments(run_dir)
        for line, _ in _complete_lines(path, 0, run_dir)
        if _RESUME in line
        for fields in salvage(line)
    )
    return sorted(
        (fields["n"], fields["step"])
        for fields in lines
        if fields.get("type") == "resume" and type(fields.get("step")) is int
    )


@final
class _Order:
    """Lets every number through once, also where lines have changed places."""

    def __init__(self, start: int, damage: Damage) -> None:
        self._next = start
        self._missing: list[range] = []
        self._damage = damage

    def take(self, number: int) -> bool:
        """Whether the number is wanted and was not there before."""
        if number == self._next:
            self._next += 1
            return True
        if number > self._next:
            self._missing.append(range(self._next, number))
            self._damage(f"the lines {self._next} to {number - 1} are missing")
            self._next = number + 1
            return True
        for index, gap in enumerate(self._missing):
            if number in gap:
                parts = range(gap.start, number), range(number + 1, gap.stop)
                self._missing[index : index + 1] = [part for part in parts if part]
                return True
        return False


def _places(run_dir: Path, start: int) -> Iterator[tuple[Path, int]]:
    """The segments from the one that holds `start` on, and the byte at which to begin."""
    found = segments(run_dir)
    first = 0
    if start:
        for index in reversed(range(len(found))):
            header = read_header(found[index][1])
            if header is not None and header["n"] <= start:
                first = index
                break
    while first < len(found):
        index, path = found[first]
        yield path, _offset(path, start) if start else 0
        start = 0
        found, first = [one for one in segments(run_dir) if one[0] > index], 0


def _offset(path: Path, start: int) -> int:
    """A byte before the line with number `start`, and not far before it."""
    with path.open("rb") as file:
        low, high = 0, file.seek(0, 2)
        while high - low > _BLOCK:
            middle = (low + high) // 2
            number, position = _next_number(file, middle, high)
            if number is None or number > start:
                high = middle
            else:
                low = position
        return low


def _next_number(file: Any, position: int, end: int) -> tuple[int | None, int]:
    """The first line that begins after a position: its number and where it begins."""
    file.seek(position)
    position += len(file.readline())
    while position < end:
        line = file.readline()
        try:
            return parse(line.removesuffix(b"\n"))["n"], position
        except DamagedLineError:
            position += len(line)
    return None, end


def _complete_lines(path: Path, offset: int, run_dir: Path) -> Iterator[tuple[bytes, int | None]]:
    """Lines without their newlines, and where they begin.

    The place of what follows the last newline is None as long as no later segment is there: it may
    be a line that is just being written.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:  # removed since it was listed
        return
    with file:
        file.seek(offset)
        rest, final = b"", False
        while True:
            block = file.read(_BLOCK)
            if not block:
                if final or not _has_successor(path, run_dir):
                    break
                final = True  # it is written no more: what came meanwhile is the last of it
                continue
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line, offset
                offset += len(line) + 1
        if rest:
            yield rest, offset if final else None


def _has_successor(path: Path, run_dir: Path) -> bool:
    return any(index > int(path.stem) for index, _ in segments(run_dir))


def _ignore(_: str) -> None:
    pass
