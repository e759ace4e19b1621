"""One line: a JSON object in ASCII whose last member is the checksum of the bytes before it.

A line that was damaged is so never taken for another value. JSON has no NaN; how values that it
can't hold are written is said in `docs/journal.md`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping  # noqa: TC003 - part of public annotations
from typing import Any, NoReturn

from metriplex.records import Scalar  # noqa: TC001 - part of public annotations

CHECKSUM_BYTES = len(',"crc":"01234567"}')
_START = b'{"n":'
_STARTS = 3
"""The beginning of a line, and how often it may come in one: also as a tag or hyper-parameter."""
_END = re.compile(rb',"crc":"[0-9a-f]{8}"\}')
_MAX_DIGITS = 4000
"""Longer integers, which Python doesn't print in decimal, are written in hexadecimal."""

_PRINTED = frozenset({float, int})
"""Types whose `repr` is JSON, if the value is finite."""


class DamagedLineError(ValueError):
    """Bytes that are no line of a journal."""


def _plain(value: Any) -> Any:
    """NumPy's numbers, of which JSON knows only those that are Python's too."""
    if hasattr(value, "dtype"):
        return value.item()
    raise TypeError(f"a journal can't hold {value!r} of type `{type(value).__name__}`")


def _refuse(constant: str) -> NoReturn:
    raise DamagedLineError(f"{constant} is not JSON")


encode_json = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain).encode
_decode_json = json.JSONDecoder(parse_constant=_refuse).decode


def seal(body: str) -> bytes:
    """Ends a line.

    Args:
        body: The JSON object without its closing brace, in ASCII, beginning with `{"n":`.

    Returns:
        The whole line with its newline.
    """
    data = body.encode("ascii")
    return b'%b,"crc":"%08x"}\n' % (data, zlib.crc32(data))


def is_sealed(line: bytes) -> bool:
    """Whether a line, without its newline, is as it was written."""
    body = line[:-CHECKSUM_BYTES]
    return line[-CHECKSUM_BYTES:] == b',"crc":"%08x"}' % zlib.crc32(body)


def parse(line: bytes) -> dict[str, Any]:
    """Reads a line, without its newline.

    Raises:
        DamagedLineError: It isn't as it was written, or was never a line of a journal.
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
    """The lines within a damaged one: what follows a torn line, or a newline that was overwritten.

    A quotation mark inside a string is escaped, so no text that was logged looks like a line.
    """
    low = 0
    for end in _END.finditer(line):
        start = end.start()
        for _ in range(_STARTS):
            start = line.rfind(_START, low, start)
            if start < 0:
                break
            with contextlib.suppress(DamagedLineError):
                yield parse(line[start : end.end()])
                low = end.end()
                break


def encode_values(values: Mapping[str, Scalar | str]) -> str:
    """The members `values` and, only if JSON can't hold some of them, `nonfinite`."""
    numbers: tuple[Any, ...] = tuple(values.values())
    try:
        if _PRINTED.issuperset(map(type, numbers)) and math.isfinite(sum(numbers)):
            return _template(tuple(values)) % numbers
    except (OverflowError, ValueError):  # integers beyond what a float holds
        pass
    try:
        return f'"values":{encode_json(values)}'
    except ValueError:
        held, others = {}, {}
        for tag, value in values.items():
            number = _plain(value) if hasattr(value, "dtype") else value
            if isinstance(number, float) and not math.isfinite(number):
                held[tag], others[tag] = None, str(number)
            elif isinstance(number, int) and number.bit_length() > _MAX_DIGITS:
                held[tag], others[tag] = None, hex(number)
            else:
                held[tag] = number
        return f'"values":{encode_json(held)},"nonfinite":{encode_json(others)}'


@functools.lru_cache(maxsize=1024)
def _template(tags: tuple[str, ...]) -> str:
    """What stays the same from step to step."""
    members = ",".join(f"{encode_json(tag).replace('%', '%%')}:%r" for tag in tags)
    return f'"values":{{{members}}}'


def decode_values(fields: Mapping[str, Any], *, strings: bool = False) -> dict[str, Any]:
    """Tag to value, as they were given to `encode_values`.

    Args:
        fields: The line.
        strings: Whether values may be strings, as those of hyper-parameters.

    Raises:
        DamagedLineError: They are no mapping of numbers.
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
    """Whether a value is an integer from 0 on, and no bool."""
    return type(value) is int and value >= 0
