"""Encode and parse single lines: ASCII JSON objects that end with a checksum.

The checksum is the CRC-32 of the bytes before it, so a damaged line is never read as another value.
`docs/journal.md` describes how values that JSON can't hold, such as NaN, are written.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping  # noqa: TC003 - part of public annotations
from typing import Any, NoReturn, final

from metriplex.records import Scalar  # noqa: TC001 - part of public annotations

MAX_LINE = 2**28
"""Most bytes of a line, with its newline: readers hold one line in memory."""

CHECKSUM_BYTES = len(',"crc":"01234567"}')
_STARTS = 3
"""Most `{"n":` to try as the start of a line: a tag or hyper-parameter may contain it."""
_MARK = re.compile(rb'(?P<start>\{"n":)|,"crc":"(?P<crc>[0-9a-f]{8})"\}')
_MAX_BITS = 4000
"""Bits above which an integer is written in hexadecimal, as Python limits decimal digits."""

_PRINTED = frozenset({float, int})
"""Types whose `repr` is JSON for finite values."""


class DamagedLineError(ValueError):
    """Bytes are no valid line of a journal."""


def _plain(value: Any) -> Any:
    """Return a NumPy number as a Python number."""
    if hasattr(value, "dtype"):
        return value.item()
    raise TypeError(f"a journal can't hold {value!r} of type `{type(value).__name__}`")


def _refuse(constant: str) -> NoReturn:
    raise DamagedLineError(f"{constant} is not JSON")


encode_json = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain).encode
_decode_json = json.JSONDecoder(parse_constant=_refuse).decode


def seal(body: str) -> bytes:
    """Return a whole line, with its checksum and its newline.

    Args:
        body: The JSON object without its closing brace, in ASCII, beginning with `{"n":`.
    """
    data = body.encode("ascii")
    return b'%b,"crc":"%08x"}\n' % (data, zlib.crc32(data))


def is_sealed(line: bytes) -> bool:
    """Return True if the checksum of a line without its newline is right."""
    body = line[:-CHECKSUM_BYTES]
    return line[-CHECKSUM_BYTES:] == b',"crc":"%08x"}' % zlib.crc32(body)


def parse(line: bytes) -> dict[str, Any]:
    """Return the members of a line without its newline.

    Raises:
        DamagedLineError: The checksum is wrong, or the bytes are no line of a journal.
    """
    if not is_sealed(line):
        raise DamagedLineError("its checksum is wrong")
    try:
        fields = _decode_json(line.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise DamagedLineError(str(error)) from error
    if not isinstance(fields, dict) or not is_count(fields.get("n")):
        raise DamagedLineError("it has no number")
    return fields


def salvage(line: bytes) -> Iterator[dict[str, Any]]:
    """Yield the whole lines within a damaged line, such as after a torn line or a lost newline.

    A quotation mark inside a string is escaped, so no logged text looks like a line. Each byte is
    read at most `_STARTS` times, whatever the line holds.
    """
    data = memoryview(line)
    starts: collections.deque[_Start] = collections.deque(maxlen=_STARTS)
    for mark in _MARK.finditer(line):
        if mark["start"]:
            starts.append(_Start(mark.start()))
            continue
        for start in reversed(starts):
            start.read(data, mark.start())
            if b"%08x" % start.checksum != mark["crc"]:
                continue
            try:
                yield parse(line[start.begin : mark.end()])
            except DamagedLineError:
                starts.remove(start)
            else:
                starts.clear()
            break


@final
@dataclasses.dataclass(slots=True, eq=False)
class _Start:
    """A place where a line may begin, and the checksum of the bytes from there on."""

    begin: int
    end: int = -1
    checksum: int = 0

    def read(self, data: memoryview, end: int) -> None:
        """Extend the checksum up to byte `end` of the data."""
        self.checksum = zlib.crc32(data[max(self.begin, self.end) : end], self.checksum)
        self.end = end


def encode_values(values: Mapping[str, Scalar | str]) -> str:
    """Return the member `values`, and `nonfinite` if JSON can't hold some of the values."""
    numbers: tuple[Any, ...] = tuple(values.values())
    try:
        if _PRINTED.issuperset(map(type, numbers)) and math.isfinite(sum(numbers)):
            return _template(tuple(values)) % numbers
    except (OverflowError, ValueError):  # an integer is too large for a float
        pass
    try:
        return f'"values":{encode_json(values)}'
    except ValueError:
        held, others = {}, {}
        for tag, value in values.items():
            number = _plain(value) if hasattr(value, "dtype") else value
            if isinstance(number, float) and not math.isfinite(number):
                held[tag], others[tag] = None, str(number)
            elif isinstance(number, int) and number.bit_length() > _MAX_BITS:
                held[tag], others[tag] = None, hex(number)
            else:
                held[tag] = number
        return f'"values":{encode_json(held)},"nonfinite":{encode_json(others)}'


@functools.lru_cache(maxsize=1024)
def _template(tags: tuple[str, ...]) -> str:
    """Return a format string of the member `values`, the same at every step."""
    members = ",".join(f"{encode_json(tag).replace('%', '%%')}:%r" for tag in tags)
    return f'"values":{{{members}}}'


def decode_values(fields: Mapping[str, Any], *, strings: bool = False) -> dict[str, Any]:
    """Return the mapping of tags to values that `encode_values` got.

    Raises:
        DamagedLineError: A value is no number, and no string either if `strings` are allowed.
    """
    values = fields.get("values")
    if not isinstance(values, dict):
        raise DamagedLineError("its `values` are no object")
    if "nonfinite" in fields:
        others = fields["nonfinite"]
        if not isinstance(others, dict):
            raise DamagedLineError("its `nonfinite` is no object")
        values |= {tag: _special(text) for tag, text in others.items()}
    allowed = {bool, int, float, str} if strings else {bool, int, float}
    if not allowed.issuperset(map(type, values.values())):
        raise DamagedLineError("its `values` are no numbers")
    return values


def _special(text: Any) -> float | int:
    if text in ("nan", "inf", "-inf"):
        return float(text)
    try:
        return int(text, 16)
    except (TypeError, ValueError) as error:
        raise DamagedLineError(f"it has a value {text!r:.80}") from error


def is_count(value: Any) -> bool:
    """Return True if a value is an integer of at least 0 and no bool."""
    return type(value) is int and value >= 0
