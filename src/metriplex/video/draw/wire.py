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
    """Return the packet of a message.

    Args:
        message: Any object that cloudpickle can pickle, also of classes defined in `__main__`.
    """
    return packet(cloudpickle.dumps(message))


def packet(pickled: bytes) -> bytes:
    """Return the packet of a message that is already pickled."""
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
    """Wait for one packet and return its pickle.

    Raises:
        EOFError: The other end is closed.
    """
    (length,) = HEADER.unpack(_read(descriptor, HEADER.size))
    return _read(descriptor, length)


def write(descriptor: int, message: Any) -> None:
    """Send a message.

    Raises:
        BrokenPipeError: The other end is closed.
    """
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
