"""Parse protocol buffer messages whose fields are known by number.

References:
    The wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator  # noqa: TC003 - part of public annotations
from typing import Any, TypeAlias

Message: TypeAlias = dict[int, list[Any]]
"""Field number to values: an int for a varint, bytes for every other wire type."""

_MAX_VARINT = 10


def parse_message(data: bytes | int) -> Message:
    """Return the fields of a message; raise `ValueError` if `data`, a field's value, is none."""
    if isinstance(data, int):
        raise ValueError("a number is where a message must be")  # noqa: TRY004 - of a file
    fields: Message = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
        else:
            if kind == 2:
                size, position = _varint(data, position)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ValueError(f"wire type {kind} is unknown")
            value = data[position : position + size]
            position += size
            if position > len(data):
                raise ValueError("a field is longer than its message")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT):
        if position >= len(data):
            raise ValueError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise ValueError("a number is too long")


def varints(data: bytes | int) -> Iterator[int]:
    """Yield the values of a packed field of varints; raise `ValueError` for anything else."""
    if isinstance(data, int):
        raise ValueError("a number is where packed numbers must be")  # noqa: TRY004 - of a file
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def last(message: Message, field: int, default: Any) -> Any:
    """Return the last value of a field that is not repeated, or the default without a value.

    Raises:
        ValueError: The value has another type than the default.
    """
    value = message.get(field, [default])[-1]
    if type(value) is not type(default):
        raise ValueError(f"field {field} is of another type")
    return value


def inner(message: Message, field: int) -> Message:
    """Return the message in a field; empty if the field is missing."""
    return parse_message(last(message, field, b""))


def text(message: Message, field: int) -> str:
    """Return the string in a field; empty if the field is missing."""
    return last(message, field, b"").decode("utf-8", "replace")


def signed(value: int) -> int:
    """Return a varint as int64."""
    return value - 2**64 if value >= 2**63 else value


def double(message: Message, field: int) -> float:
    """Return the double in a field; 0 if the field is missing."""
    return unpack("<d", last(message, field, bytes(8)))


def unpack(kind: str, data: bytes) -> float:
    """Return one number in a format of `struct`; raise `ValueError` if `data` has another size."""
    try:
        return struct.unpack(kind, data)[0]
    except struct.error as error:
        raise ValueError(str(error)) from error
