"""Just enough of protocol buffers to read messages whose fields are known by number.

The wire format is that of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

Message: TypeAlias = dict[int, list[Any]]
"""Field number to its values: int for a varint, bytes for all others."""

_MAX_VARINT = 10


def parse_message(data: bytes) -> Message:
    """Takes a message apart.

    Raises:
        ValueError: It is none.
    """
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


def last(message: Message, field: int, default: Any) -> Any:
    """The value of a field that is not repeated; of another type than the default's, an error.

    Raises:
        ValueError: It was written as another type.
    """
    value = message.get(field, [default])[-1]
    if type(value) is not type(default):
        raise ValueError(f"field {field} is of another type")
    return value


def inner(message: Message, field: int) -> Message:
    """A message in a message; empty if it is missing.

    Raises:
        ValueError: It is none.
    """
    return parse_message(last(message, field, b""))


def text(message: Message, field: int) -> str:
    """A string; empty if it is missing.

    Raises:
        ValueError: It is none.
    """
    return last(message, field, b"").decode("utf-8", "replace")


def signed(value: int) -> int:
    """A varint as int64."""
    return value - 2**64 if value >= 2**63 else value


def double(message: Message, field: int) -> float:
    """A double; 0 if it is missing.

    Raises:
        ValueError: It is none.
    """
    return unpack("<d", last(message, field, bytes(8)))


def unpack(kind: str, data: bytes) -> float:
    """One number of a `struct` format.

    Raises:
        ValueError: The size is another.
    """
    try:
        return struct.unpack(kind, data)[0]
    except struct.error as error:
        raise ValueError(str(error)) from error
