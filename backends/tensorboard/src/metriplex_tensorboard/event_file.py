"""One event file: TFRecord framing, and writes that a full disk can neither tear nor repeat.

A record is: length (uint64), masked checksum of the length, data, masked checksum of the data; all
little-endian, checksums CRC-32C. The records are not written by tensorboardX's `RecordWriter`: it
can't repeat a write that failed halfway, and calls fsync at every flush.

References:
    TFRecord: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator  # noqa: TC003 - part of public annotations
from io import FileIO
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import final

from crc32c import crc32c

_pack_checksum = struct.Struct("<I").pack
_HEAD = 12
_LONGEST = 2**31
"""More bytes than one event has: protocol buffers are smaller."""
_NAME = re.compile(r"events\.out\.tfevents\.(\d+)(?:\.(\d{9})\.)?")


def frame(data: bytes) -> bytes:
    """Return the TFRecord of a serialized event."""
    return b"".join((_header(len(data)), data, _checksum(data)))


@functools.lru_cache(maxsize=4096)
def _header(length: int) -> bytes:
    encoded = struct.pack("<Q", length)
    return encoded + _checksum(encoded)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return _pack_checksum(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF)


def event_files(directory: Path) -> list[Path]:
    """Return the event files of a directory in the order in which TensorBoard reads them."""
    try:
        return sorted(directory / name for name in os.listdir(directory) if _NAME.match(name))  # noqa: PTH208
    except FileNotFoundError:
        return []


def read_events(path: Path) -> Iterator[bytes]:
    """Yield the serialized events of a file, up to its end or to the first damage.

    Raises:
        OSError: The file can't be read.
    """
    with path.open("rb") as file:
        while len(head := file.read(_HEAD)) == _HEAD:
            (length,) = struct.unpack_from("<Q", head)
            if length > _LONGEST or _header(length) != head:
                return
            data, checksum = file.read(length), file.read(4)
            if checksum != _checksum(data):
                return
            yield data


@final
class EventFile:
    """A new event file, created by the first write.

    Records wait in memory until `write`, which stores all of them or, for a reader of the file,
    none. No descriptor stays open between writes, so there may be hundreds of files. The directory
    is created if only its parent exists. Not thread-safe.
    """

    def __init__(self, directory: Path, suffix: str = "") -> None:
        self._directory = directory
        self._suffix = suffix
        self._path: Path | None = None
        self._pending: list[bytes] = []
        self._stored = 0

    def append(self, records: Iterable[bytes]) -> None:
        """Add framed records; no I/O."""
        self._pending.extend(records)

    def write(self) -> None:
        """Write all records that were appended; then they survive this process.

        After an `OSError` no record is stored, and all are kept for the next call, which begins at
        the same offset and overwrites the bytes of the failed one.
        """
        if not self._pending:
            return
        data = b"".join(self._pending)
        with self._open() as file:
            file.seek(self._stored)
            try:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(self._stored)
                raise
        self._stored += len(data)
        self._pending.clear()

    def _open(self) -> FileIO:
        if self._path is not None:
            return FileIO(self._path, "r+")
        self._directory.mkdir(exist_ok=True)
        while True:
            path = self._directory / _file_name(self._directory, self._suffix)
            with contextlib.suppress(FileExistsError):
                file = FileIO(path, "x")
                self._path = path
                return file


def _file_name(directory: Path, suffix: str) -> str:
    """Return a file name that sorts after all event files of the directory.

    TensorBoard reads files in the order of their names. A continued run supersedes earlier events
    only if its file is the last one, even if the clock was set back meanwhile.
    """
    stamp = time.time_ns()
    for name in os.listdir(directory):  # noqa: PTH208 - names are all that is needed
        if found := _NAME.match(name):
            seconds, nanoseconds = found.groups(default="999999999")
            stamp = max(stamp, int(seconds) * 10**9 + int(nanoseconds) + 1)
    seconds, nanoseconds = divmod(stamp, 10**9)
    return (
        f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}."
        f"{socket.gethostname()}.{os.getpid()}{suffix}"
    )
