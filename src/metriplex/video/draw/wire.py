"""Packets between the training process and the drawing process: a length, then a pickle."""

from __future__ import annotations

import os
import pickle
import struct
from typing import Any

import cloudpickle

HEADER = struct.Struct("<Q")
CHUNK = 1 << 18
"""Bytes that are read at once."""


def pack(message: Any) -> bytes:
    """One message as it is sent.

    Args:
        message: Anything that cloudpickle can pickle, also what was defined in `__main__`.
    """
    return packet(cloudpickle.dumps(message))


def packet(pickled: bytes) -> bytes:
    """Something that is pickled already, as it is sent."""
    return HEADER.pack(len(pickled)) + pickled


def unpack(received: bytearray) -> list[Any]:
    """Takes all whole messages from the front of what was received."""
    messages = []
    while len(received) >= HEADER.size:
        end = HEADER.size + HEADER.unpack_from(received)[0]
        if len(received) < end:
            break
        messages.append(pickle.loads(memoryview(received)[HEADER.size : end]))  # noqa: S301 - ours
        del received[:end]
    return messages


def read(descriptor: int) -> bytes:
    """Waits for one message and gives its pickle.

    Raises:
        EOFError: Nobody can send any more.
    """
    (length,) = HEADER.unpack(_read(descriptor, HEADER.size))
    return _read(descriptor, length)


def write(descriptor: int, message: Any) -> None:
    """Sends a message.

    Raises:
        BrokenPipeError: Nobody can receive it.
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
