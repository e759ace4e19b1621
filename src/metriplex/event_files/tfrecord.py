"""Read the records of a TFRecord file, also of a damaged file.

A record is the length of its data (uint64), the masked CRC-32C of the length, the data, and the
masked CRC-32C of the data, all in little-endian order.

References:
    TensorFlow's `record_writer.h`; https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator  # noqa: TC003 - part of public annotations
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import IO, final

import numpy as np

from metriplex.errors import PluginError
from metriplex.files import open_file

_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_FRAME = _HEAD.size + _CRC.size
_MASK = 0xA282EAD8
_BLOCK = 2**20

_MAX_LENGTH = 2**31
"""Least length that no record has, as a protocol buffer is smaller."""

_PATIENCE = 8
"""Bytes of wrong records to read for each byte of the file until the rest is given up."""


def read_records(path: Path, damage: Callable[[str], None]) -> Iterator[bytes]:
    """Yield the data of every whole record.

    After a damaged record the next one is found by its checksums, in time that is linear in the
    size of the file. A record that is cut off at the end of the file is not reported, as the file
    may still be written.

    Args:
        path: The file; symbolic links are followed.
        damage: Called with a sentence for each damaged record.

    Raises:
        PluginError: The package `crc32c` is not installed.
        OSError: The file can't be read, or is no regular file.
    """
    checksum = _load_checksum()
    with open_file(path, inside=None) as file:
        records = _Records(file, checksum)
        position = 0
        while position < records.end:
            data = records.at(position)
            if data is not None:
                position += len(data) + _FRAME
                yield data
                continue
            following = records.after(position)
            if following is None and records.is_cut_off(position):
                return
            damage(f"{path} at byte {position}: a record is damaged")
            if following is None:
                if records.is_given_up():
                    damage(f"{path}: the rest is left out: it holds no end of wrong records")
                return
            position = following


@final
class _Records:
    """The places of a file at which records may be."""

    def __init__(self, file: IO[bytes], checksum: Callable[[bytes], int]) -> None:
        self._file = file
        self._checksum = checksum
        self.end = file.seek(0, 2)
        self._wrong = 0

    def at(self, position: int) -> bytes | None:
        """Return the data of the record at a position; None if there is no whole record."""
        length = self._length(position)
        if length is None or position + length + _FRAME > self.end:
            return None
        self._file.seek(position + _HEAD.size)
        data, crc = self._file.read(length), self._file.read(_CRC.size)
        if len(data) == length and crc == _CRC.pack(self._checksum(data)):
            return data
        self._wrong += length
        return None

    def is_cut_off(self, position: int) -> bool:
        """Return True if the file seems to end within the record at a position."""
        if self.end - position < _HEAD.size:
            return True
        length = self._length(position)
        return length is not None and position + length + _FRAME > self.end

    def is_given_up(self) -> bool:
        """Return True if wrong records, one within the other, have cost too much."""
        return self._wrong > _PATIENCE * self.end

    def after(self, position: int) -> int | None:
        """Return the position of the first whole record after a damaged one."""
        length = self._length(position)
        if length is not None:  # most likely only the data is damaged
            following = position + length + _FRAME
            if following <= self.end and self.at(following) is not None:
                return following
        start = position + 1
        while start < self.end:
            self._file.seek(start)
            block = self._file.read(_BLOCK + _HEAD.size - 1)
            for offset in _heads(block):
                if self.is_given_up():
                    return None
                if self.at(start + offset) is not None:
                    return start + offset
            start += _BLOCK
        return None

    def _length(self, position: int) -> int | None:
        self._file.seek(position)
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, crc = _HEAD.unpack(head)
        fits = self._checksum(head[:8]) == crc and length < _MAX_LENGTH
        return length if fits else None


def _heads(block: bytes) -> list[int]:
    """Return the offsets of 8 bytes that are followed by their masked checksum."""
    data = np.frombuffer(block, np.uint8)
    count = len(data) - _HEAD.size + 1
    if count <= 0:
        return []
    # The checksum is linear over bits: that of 8 bytes is the sum of those of each byte.
    tables, none = _tables()
    crc = np.full(count, none, np.uint32)
    stored = np.zeros(count, np.uint32)
    for index, table in enumerate(tables):
        crc ^= table[data[index : index + count]]
    for index in range(_CRC.size):
        stored |= data[8 + index : 8 + index + count].astype(np.uint32) << np.uint32(8 * index)
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(_MASK)
    return np.flatnonzero(masked == stored).tolist()


@functools.cache
def _tables() -> tuple[list[np.ndarray], int]:
    """Return the change of a checksum of 8 zeros by each byte, `[256]` for each place, and it."""
    from crc32c import crc32c

    none = crc32c(bytes(8))
    return [
        np.array(
            [crc32c(bytes([*bytes(at), byte, *bytes(7 - at)])) ^ none for byte in range(256)]
        ).astype(np.uint32)
        for at in range(8)
    ], none


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
        return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFF_FFFF

    return masked
