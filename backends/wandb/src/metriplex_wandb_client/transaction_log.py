"""The client's transaction log, `run-ID.wandb`: messages in the log format of LevelDB.

References:
    https://github.com/google/leveldb/blob/main/doc/log_format.md, apart from the header of seven
    bytes and the checksum, which is the CRC-32 of zlib.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator  # noqa: TC003 - part of public annotations
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import Any, final

from wandb.proto import wandb_internal_pb2

_BLOCK = 2**15
_HEAD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@final
class TransactionLog:
    """Read the complete records of a log, which may still grow.

    Args:
        path: The file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = _HEAD.size  # the file's header is as long as a chunk's

    def read_new(self) -> Iterator[Any]:
        """Yield the messages of the type `Record` that were completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            start = self._position - self._position % _BLOCK
            file.seek(start)
            data = file.read()
        position = self._position - start
        record = b""
        while len(data) - position >= _HEAD.size:
            left = _BLOCK - position % _BLOCK
            if left < _HEAD.size:
                position += left
                continue
            _, size, kind = _HEAD.unpack_from(data, position)
            position += _HEAD.size
            if kind == 0 or position + size > len(data):
                return
            chunk = data[position : position + size]
            record = chunk if kind in (_FULL, _FIRST) else record + chunk
            position += size
            if kind in (_FULL, _LAST):
                self._position = start + position
                yield wandb_internal_pb2.Record.FromString(record)


def keep_records(path: Path, kept: Callable[[Any], bool]) -> None:
    """Remove records from a log that no process writes, if there are any to remove.

    The file is replaced as a whole: a process that dies here leaves the old one or the new one.

    Args:
        path: The file.
        kept: Called with each message of the type `Record`; True if it stays.

    Raises:
        OSError: The file can't be written.
    """
    records = [*TransactionLog(path).read_new()]
    staying = [record for record in records if kept(record)]
    if len(staying) == len(records):
        return
    whole = bytearray(path.read_bytes()[: _HEAD.size])
    for record in staying:
        append(whole, record.SerializeToString())
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(whole)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def append(log: bytearray, record: bytes) -> None:
    """Append a serialized record to a log, in as many chunks as the blocks need."""
    rest, first = memoryview(record), True
    while first or rest:
        room = _BLOCK - len(log) % _BLOCK
        if room < _HEAD.size:
            log += bytes(room)
            room = _BLOCK
        chunk, rest = rest[: room - _HEAD.size], rest[room - _HEAD.size :]
        kind = (_LAST, _FULL)[first] if not rest else (_MIDDLE, _FIRST)[first]
        log += _HEAD.pack(zlib.crc32(chunk, zlib.crc32(bytes([kind]))), len(chunk), kind) + chunk
        first = False
