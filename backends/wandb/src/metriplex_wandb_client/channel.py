"""Messages between the training process and the process of the client."""

from __future__ import annotations

import os
import pickle
import selectors
import socket
import struct
from typing import Any, final

HEADER = struct.Struct("<Q")
_LOOK_UP_SECONDS = 5.0
"""Seconds between checks that the parent lives; its other children may hold the socket open."""


@final
class Channel:
    """Messages over a socket, each a length and a pickle.

    Args:
        descriptor: The socket's file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def receive(self) -> Any:
        """Return the next message. Raise `EOFError` if the connection is closed."""
        (size,) = HEADER.unpack(self._read(HEADER.size))
        return pickle.loads(self._read(size))  # noqa: S301 - our parent's

    def send(self, message: Any) -> None:
        """Send a message."""
        data = pickle.dumps(message)
        self._socket.sendall(HEADER.pack(len(data)) + data)

    def wait(self, parent: int) -> None:
        """Wait until there is data to receive. Raise `EOFError` if the parent has died."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not selector.select(_LOOK_UP_SECONDS):
                if os.getppid() != parent:
                    raise EOFError

    def _read(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            chunk = self._socket.recv(min(size - len(data), 2**20))
            if not chunk:
                raise EOFError
            data += chunk
        return data
