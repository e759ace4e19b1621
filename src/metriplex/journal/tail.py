"""Where a journal ends, found from its end."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import IO, final

from metriplex.journal.codec import HEADERS
from metriplex.journal.lines import DamagedLineError, parse

_SPAN = 2**16


@final
@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a segment.

    Attributes:
        size: Bytes up to the end of its last line; what follows is a torn line.
        next_number: The number after its last line; None if no line in it is whole.
        open_line: Whether the last line is whole but for its newline.
    """

    size: int
    next_number: int | None
    open_line: bool = False


def read_tail(file: IO[bytes]) -> Tail:
    """Looks at the end of a segment, as far back as the last line that is whole."""
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
        span *= 4


def number_after(found: Sequence[tuple[int, Path]]) -> int:
    """The number after the last whole line of some segments, 0 if there is none."""
    for _, path in reversed(found):
        with path.open("rb") as file:
            number = read_tail(file).next_number
        if number is not None:
            return number
    return 0


def _after(line: bytes, damaged: int) -> int | None:
    """The number after a line that some damaged ones follow; None if it is damaged too."""
    try:
        fields = parse(line)
    except DamagedLineError:
        return None
    return fields["n"] + (fields.get("type") not in HEADERS) + damaged


def _read(file: IO[bytes], size: int) -> bytes:
    """As many bytes, also from an unbuffered file, which may give fewer at a time."""
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
