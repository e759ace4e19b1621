"""Packets between the training process and the drawing process: a length, then a pickle."""

from __future__ import annotations

import os
import pickle
import struct
from typing import Any

import cloudpickle

HEADER = struct.Struct("<Q")
CHUNK = 1 << 18
"""Number of bytes to read at once."""


def pack(message: Any) -> bytes:
    """Return the packet of any object that cloudpickle pickles, also of a class in `__main__`."""
    pickled = cloudpickle.dumps(message)
    return HEADER.pack(len(pickled)) + pickled


def unpack(received: bytearray) -> list[Any]:
    """Remove all complete packets from the start of `received`, and return their messages."""
    messages = []
    while len(received) >= HEADER.size:
        end = HEADER.size + HEADER.unpack_from(received)[0]
        if len(received) < end:
            break
        messages.append(pickle.loads(memoryview(received)[HEADER.size : end]))  # noqa: S301 - ours
        del received[:end]
    return messages


def read(descriptor: int) -> bytes:
    """Wait for one packet and return its pickle; raise `EOFError` if the other end is closed."""
    (length,) = HEADER.unpack(_read(descriptor, HEADER.size))
    return _read(descriptor, length)


def write(descriptor: int, message: Any) -> None:
    """Send a message; raise `BrokenPipeError` if the other end is closed."""
    data = memoryview(pack(message))
    while data:
        data = data[os.write(descriptor, data) :]


def _read(descriptor: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = os.read(descriptor, min(length - len(data), CHUNK))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
