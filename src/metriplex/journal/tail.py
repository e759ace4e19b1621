"""Find the end of a journal by reading its segments backwards."""

from __future__ import annotations

import errno
from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import IO, final

from metriplex.journal.codec import HEADERS
from metriplex.journal.lines import MAX_LINE, DamagedLineError, parse, salvage
from metriplex.journal.segments import open_segment

_SPAN = 2**16


@final
@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a segment.

    Attributes:
        size: Bytes up to the end of the last line; any bytes after it are a torn line.
        next_number: The number after the last line; None if no line is whole.
        open_line: True if the last line lacks only its newline.
    """

    size: int
    next_number: int | None
    open_line: bool = False


def read_tail(file: IO[bytes]) -> Tail:
    """Return the end of a segment, reading back to its last whole line.

    Raises:
        OSError: There is none in the last `2 * MAX_LINE` bytes: the file is not read into memory.
    """
    end = file.seek(0, 2)
    span = _SPAN
    while True:
        begin = max(end - span, 0)
        file.seek(begin)
        *lines, torn = _read(file, end - begin).split(b"\n")
        number = _after(torn, 0)
        if number is not None:
            return Tail(end, number, open_line=True)
        size = end - len(torn)
        for damaged, line in enumerate(reversed(lines[1:] if begin else lines)):
            number = _after(line, damaged)
            if number is not None:
                return Tail(size, number)
        if not begin:
            return Tail(size, None)
        if span > 2 * MAX_LINE:
            raise OSError(errno.EFBIG, f"no line in the last {span:,} bytes", str(file.name))
        span *= 4


def number_after(found: Sequence[tuple[int, Path]]) -> int:
    """Return the number after the last whole line of some segments; 0 without one."""
    for _, path in reversed(found):
        with open_segment(path) as file:
            number = read_tail(file).next_number
        if number is not None:
            return number
    return 0


def _after(line: bytes, damaged: int) -> int | None:
    """Return the number after a line and its damaged followers; None if nothing of it is whole."""
    try:
        found = [parse(line)]
    except DamagedLineError:
        found = [*salvage(line)]
    ends = (fields["n"] + (fields.get("type") not in HEADERS) for fields in found)
    return max((end + damaged for end in ends), default=None)


def _read(file: IO[bytes], size: int) -> bytes:
    """Read `size` bytes, also from an unbuffered file, whose `read` may return fewer."""
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
