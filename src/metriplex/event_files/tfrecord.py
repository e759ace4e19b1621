"""Read the records of a TFRecord file, also of a damaged file.

A record is the length of its data (uint64), the masked CRC-32C of the length, the data, and the
masked CRC-32C of the data, all in little-endian order.

References:
    TensorFlow's `record_writer.h`; https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator  # noqa: TC003 - part of public annotations
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import IO

from metriplex.errors import PluginError

_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_BLOCK = 2**20


def read_records(path: Path, damage: Callable[[str], None]) -> Iterator[bytes]:
    """Yield the data of every whole record.

    After a damaged record the next one is found by its checksums. A record that is cut off at the
    end of the file is not reported, as the file may still be written.

    Args:
        path: The file.
        damage: Called with a sentence for each damaged record.

    Raises:
        PluginError: The package `crc32c` is not installed.
        OSError: The file can't be read.
    """
    checksum = _load_checksum()
    with path.open("rb") as file:
        end = file.seek(0, 2)
        position = 0
        while position < end:
            data = _record_at(file, position, end, checksum)
            if data is not None:
                position += len(data) + _HEAD.size + _CRC.size
                yield data
                continue
            following = _next_record(file, position, end, checksum)
            if following is None and _is_cut_off(file, position, end, checksum):
                return
            damage(f"{path} at byte {position}: a record is damaged")
            if following is None:
                return
            position = following


def _record_at(
    file: IO[bytes], position: int, end: int, checksum: Callable[[bytes], int]
) -> bytes | None:
    length = _length_at(file, position, checksum)
    if length is None or position + _HEAD.size + length + _CRC.size > end:
        return None
    file.seek(position + _HEAD.size)
    data, crc = file.read(length), file.read(_CRC.size)
    whole = len(data) == length and crc == _CRC.pack(checksum(data))
    return data if whole else None


def _length_at(file: IO[bytes], position: int, checksum: Callable[[bytes], int]) -> int | None:
    file.seek(position)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, crc = _HEAD.unpack(head)
    return length if checksum(head[:8]) == crc else None


def _is_cut_off(file: IO[bytes], position: int, end: int, checksum: Callable[[bytes], int]) -> bool:
    """Return True if the file seems to end within the record at `position`."""
    if end - position < _HEAD.size:
        return True
    length = _length_at(file, position, checksum)
    return length is not None and position + _HEAD.size + length + _CRC.size > end


def _next_record(
    file: IO[bytes], position: int, end: int, checksum: Callable[[bytes], int]
) -> int | None:
    """Return the position of the first whole record after a damaged one."""
    length = _length_at(file, position, checksum)
    if length is not None:  # most likely only the data is damaged
        after = position + _HEAD.size + length + _CRC.size
        if after <= end and _record_at(file, after, end, checksum) is not None:
            return after
    start = position + 1
    while start < end:
        file.seek(start)
        block = file.read(_BLOCK + _HEAD.size)
        # The upper half of a length is zero, as no record has 4 GiB.
        found = block.find(b"\0\0\0\0", 4)
        while found >= 0:
            candidate = start + found - 4
            if _record_at(file, candidate, end, checksum) is not None:
                return candidate
            found = block.find(b"\0\0\0\0", found + 1)
        start += _BLOCK
    return None


def _load_checksum() -> Callable[[bytes], int]:
    try:
        from crc32c import crc32c
    except ImportError as error:
        raise PluginError(
            "TensorBoard's event files need the package crc32c, which is not installed; to install "
            "it: `pip install 'metriplex[event-files]'`"
        ) from error

    def masked(data: bytes) -> int:
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF

    return masked
