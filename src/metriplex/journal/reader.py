"""Read a journal, also if it is damaged or being written."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from metriplex.errors import ConfigurationError
from metriplex.journal.codec import HEADERS, decode, decode_header, header_steps
from metriplex.journal.entries import STEPPED, Entry, Numbers
from metriplex.journal.lines import (
    CHECKSUM_BYTES,
    MAX_LINE,
    DamagedLineError,
    is_sealed,
    parse,
    salvage,
)
from metriplex.journal.segments import (
    irregular,
    journal_dir,
    open_segment,
    read_header,
    segments,
)
from metriplex.journal.tail import number_after
from metriplex.records import RunInfo  # noqa: TC001 - part of public annotations

Damage: TypeAlias = Callable[[str], None]
"""A function that gets one sentence about each part of a journal that can't be read."""

_BLOCK = 2**20
_STEP = re.compile(
    rb'\{"n":\d+,"type":"(\w+)","step":(-?\d{1,99})'
    rb'(?:,"iteration":(?:null|-?\d+))?(?:,"lane":(null|\d{1,99}))?'
)
_NUMBER = re.compile(rb'\{"n":(\d{1,18}),"type":"(\w+)"')
_SHORTEST = len('{"n":0,"type":"close","status":"","crc":"01234567"}\n')
_RESUME = b'"type":"resume"'
_START, _CHECKSUM = b'{"n":', b',"crc":"'


def has_journal(run_dir: Path) -> bool:
    """Return True if a directory holds a journal."""
    return bool(segments(run_dir))


def read_run(run_dir: Path) -> RunInfo:
    """Return the run of a journal, in a directory that may have been moved or copied.

    Raises:
        ConfigurationError: There is no journal, or no segment has a valid header.
        OSError: A segment can't be read.
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
    """Yield every entry of a run once and in order, up to the last complete line.

    A damaged line is skipped. Entries that a later `Resume` supersedes are not: see `superseded`.
    Any thread or process may write the journal meanwhile: call again with `start` to continue.

    Args:
        run_dir: The run's directory.
        start: Number of the first entry to yield; found without reading the entries before it.
        damage: Called with a sentence for each damaged line and each gap in the numbers.

    Raises:
        OSError: A segment exists and can't be read.
    """
    run_dir = Path(run_dir)
    report = damage or (lambda _: None)
    for fields in read_lines(run_dir, start, damage=report):
        try:
            yield Entry(fields["n"], decode(fields, run_dir))
        except DamagedLineError as error:
            report(f"{journal_dir(run_dir)}: line {fields['n']} is left out: {error}")


def read_lines(run_dir: Path, start: int = 0, *, damage: Damage) -> Iterator[dict[str, Any]]:
    """Yield the members of the lines that `read_entries` decodes, without reading media files."""
    numbers = Numbers(start)
    for path in irregular(run_dir):
        damage(f"{path} is left out: it is a symbolic link, or no regular file")
    for path, offset in _places(run_dir, start):
        for line, place in _complete_lines(path, offset, run_dir):
            try:
                found = [parse(line)]
            except DamagedLineError as error:
                found = [*salvage(line)]
                if place is not None:
                    damage(f"{path} at byte {place}: a line is damaged: {error}")
            for fields in found:
                number = fields["n"]
                if fields.get("type") in HEADERS:
                    continue
                if number > numbers.expected:
                    damage(f"the lines {numbers.expected} to {number - 1} are missing")
                if numbers.take(number):
                    yield fields


def newest_step(run_dir: Path) -> dict[int | None, int]:
    """Return the greatest step of every lane that no later `Resume` supersedes.

    Only the last segment is read, as its header holds the steps before it. A lane with superseded
    entries counts as having reached the step before the resume's. A run that is not vmapped has the
    lane None.
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
            if is_sealed(line):
                follow_step(line, steps)
            else:
                for fields in salvage(line):
                    if type(fields.get("step")) is int:
                        is_resume = fields["type"] == "resume"
                        advance(steps, fields["step"], fields.get("lane"), is_resume=is_resume)
    return steps


def next_number(run_dir: Path) -> int:
    """Return a number beyond all that were given to entries of a run's journal.

    Lines of the last segment may be damaged or in another order. A damaged line that may have been
    the last one counts as many lines as fit into it.

    Raises:
        OSError: A segment can't be read, or its end is no line and too long for one.
    """
    found = segments(run_dir)
    number_after(found)  # raises if the file ends in more than a line, which is not read
    number = number_after(found[:-1])
    ordered, damaged_before, damaged_after = True, 0, 0
    for _, path in found[-1:]:
        for line, place in _complete_lines(path, 0, run_dir):
            ends = _ends(line)
            if not ends:
                damaged_after += 0 if place is None else max(1, len(line) // _SHORTEST)
            for end in ends:
                ordered &= end >= number
                if end > number:
                    number = end
                    damaged_before, damaged_after = damaged_before + damaged_after, 0
    return number + damaged_after + (0 if ordered else damaged_before)


def _ends(line: bytes) -> list[int]:
    """Return the number after each entry of a line, which is damaged if it has several or none."""
    match = _NUMBER.match(line)
    if match is not None and is_sealed(line):
        return [int(match[1]) + (match[2].decode() not in HEADERS)]
    return [fields["n"] + (fields.get("type") not in HEADERS) for fields in salvage(line)]


def follow_step(line: bytes, steps: dict[int | None, int]) -> None:
    """Update the newest steps of all lanes, in place, from a line without its newline."""
    match = _STEP.match(line)
    if match is not None and is_sealed(line):
        lane = None if match[3] in {None, b"null"} else int(match[3])
        advance(steps, int(match[2]), lane, is_resume=match[1] == b"resume")


def advance(
    steps: dict[int | None, int], step: int, lane: int | None, *, is_resume: bool = False
) -> None:
    """Update the newest steps of all lanes, in place, by one entry."""
    if is_resume:
        steps.update({lane: min(newest, step - 1) for lane, newest in steps.items()})
    else:
        steps[lane] = max(steps.get(lane, step), step)


def superseded(run_dir: Path) -> Callable[[Entry], bool]:
    """Return a predicate that is True for entries that a later resume supersedes.

    Readers that filter by the predicate get one value a step. The lines are scanned once.
    """
    return superseded_by(read_resumes(run_dir))


def superseded_by(resumes: Sequence[tuple[int, int]]) -> Callable[[Entry], bool]:
    """Return a predicate as `superseded` does, from the number and the step of every resume."""
    first = first_superseded(resumes)

    def is_superseded(entry: Entry) -> bool:
        return isinstance(entry.record, STEPPED) and entry.record.step >= first(entry.number)

    return is_superseded


def first_superseded(resumes: Sequence[tuple[int, int]]) -> Callable[[int], float]:
    """Return a function from an entry's number to the first superseded step, or infinity."""
    numbers = [number for number, _ in resumes]
    limits = [*itertools.accumulate((step for _, step in reversed(resumes)), min)][::-1]

    def first(number: int) -> float:
        later = bisect.bisect_right(numbers, number)
        return limits[later] if later < len(limits) else math.inf

    return first


def read_resumes(run_dir: Path) -> list[tuple[int, int]]:
    """Return the number and the step of every resume."""
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


def _places(run_dir: Path, start: int) -> Iterator[tuple[Path, int]]:
    """Yield the segments from the one that holds `start`, each with the byte to begin at."""
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
    """Return a byte offset that is shortly before the line with number `start`."""
    with open_segment(path) as file:
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
    """Return the number and the byte offset of the first line that begins after a position."""
    file.seek(position)
    position += len(file.readline(MAX_LINE))
    while position < end:
        line = file.readline(MAX_LINE)
        try:
            return parse(line.removesuffix(b"\n"))["n"], position
        except DamagedLineError:
            position += len(line)
    return None, end


def _last_end(data: bytes) -> int:
    """Return where the last line within an endless one ends, or where the next may begin."""
    found = data.rfind(_CHECKSUM, 0, len(data) - CHECKSUM_BYTES + len(_CHECKSUM))
    if found >= 0:
        return found + CHECKSUM_BYTES
    begin = data.rfind(_START)
    return begin if begin > 0 else len(data) - CHECKSUM_BYTES


def _complete_lines(path: Path, offset: int, run_dir: Path) -> Iterator[tuple[bytes, int | None]]:
    """Yield lines without their newlines, each with its byte offset.

    Bytes after the last newline have the offset None until a later segment exists, as they may be a
    line that is being written.
    """
    try:
        file = open_segment(path)
    except FileNotFoundError:  # removed since the directory was listed
        return
    with file:
        file.seek(offset)
        remaining: list[bytes] = []  # joined once: a line may have many blocks
        size, final = 0, False
        while True:
            block = file.read(_BLOCK)
            if not block:
                later = any(index > int(path.stem) for index, _ in segments(run_dir))
                if final or not later:
                    break
                final = True  # the writer has left this segment: read its last bytes
                continue
            first, newline, rest = block.partition(b"\n")
            remaining.append(first)
            size += len(first)
            if newline:
                *lines, last = rest.split(b"\n")
                for line in (b"".join(remaining), *lines):
                    yield line, offset
                    offset += len(line) + 1
                remaining, size = [last], len(last)
            elif size > MAX_LINE:
                line = b"".join(remaining)
                end = _last_end(line)
                line, last = line[:end], line[end:]
                yield line, offset
                offset += len(line)
                remaining, size = [last], len(last)
        if size:
            yield b"".join(remaining), offset if final else None
