"""Decode the blocks of words that host calls deliver into the rows of each run.

All blocks are decoded together into columns, as most of the cost is a cost per call, not per row.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex.bridge.packing import (
    HEADER,
    NO_SEQUENCE,
    Header,
    are_clean,
    as_numbers,
    kind_of,
    unpack,
)
from metriplex.bridge.rows import NONE, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@final
@dataclasses.dataclass(slots=True, eq=False)
class Block:
    """The block of rows of one host call.

    Attributes:
        rows: uint32 `[*lanes, rows, words]`, an array of jax or its bytes.
        wall_time: Seconds since the Unix epoch at which the block reached the host.
        execution: Number of the execution of which each device sends this block; None if one does.
        device: Number of the device that sent it.
        shape: `[*lanes, rows, words]`; None for that of the array.
        taken: True after the receiver thread has taken the block from the queue.
    """

    rows: Any
    wall_time: float
    execution: int | None = None
    device: int = 0
    shape: tuple[int, ...] | None = None
    taken: bool = False


@final
class PackedTable:
    """The rows of one schema, of which values are made when they are first asked for.

    Args:
        kind: The kind of the rows.
        words: uint32 `[rows, words]`.
    """

    def __init__(self, kind: str, words: np.ndarray) -> None:
        self.kind = kind
        self._words = words
        self._values: list[dict[str, Any]] | None = None
        self._lock = threading.Lock()

    def values(self) -> list[dict[str, Any]]:
        """Return the values of each row, by tag. Any thread."""
        with self._lock:
            if self._values is None:
                self._values = unpack(self._words)
            return self._values

    def are_clean(self, may_be_nan: Callable[[str], bool]) -> bool:
        """Return True if each row has values, all finite, or NaN where that is allowed."""
        return are_clean(self._words, may_be_nan)

    def numbers(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the tags, and the scalars, float64 `[rows, tags]`, NaN where a row has none."""
        return as_numbers(self._words)


def read(blocks: Sequence[Block]) -> list[tuple[int, Rows]]:
    """Return each run handle in blocks of any shapes, and its rows in the order of the blocks.

    Waits for the words of the blocks.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, block in enumerate(blocks):
        by_shape.setdefault(block.shape or block.rows.shape, []).append(index)
    parts = [_read_shape(blocks, indices, shape) for shape, indices in by_shape.items()]
    parts = [part for part in parts if len(part.words)]
    if not parts:
        return []
    runs, rows = _join(parts, blocks)
    return [(run, rows if which is None else rows.take(which)) for run, which in _groups(runs)]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """The valid rows of blocks of one shape: columns `[rows]` and uint32 `[rows, words]`."""

    words: np.ndarray
    block: np.ndarray
    lane: np.ndarray
    lanes: np.ndarray
    fingerprint: np.ndarray


def _read_shape(blocks: Sequence[Block], indices: Sequence[int], shape: tuple[int, ...]) -> _Part:
    *lane_shape, height, width = shape
    count = len(indices)
    found = [blocks[index].rows for index in indices]
    joined = b"".join(one if isinstance(one, bytes) else np.asarray(one).tobytes() for one in found)
    rows = np.frombuffer(joined, np.uint32).reshape(-1, width)
    lanes = math.prod(lane_shape)
    valid = rows[:, Header.VALID] != 0
    each = np.arange(len(rows))  # in the order of block, lane and row
    block, position = np.asarray(indices)[each // (lanes * height)], each // height % lanes
    by_block = valid.reshape(count, -1)
    lane, known = _lanes(rows, position, by_block, lanes, vmapped=bool(lane_shape))
    if not valid.all():
        rows, block, lane, known = rows[valid], block[valid], lane[valid], known[valid]
    return _Part(rows, block, lane, known, _fingerprints(rows))


def _lanes(
    rows: np.ndarray, position: np.ndarray, valid: np.ndarray, lanes: int, *, vmapped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lane of each row, -1 for none, and the number of lanes of the row's program.

    Both are int64 `[rows]`. The number is 0 if it is unknown: the user numbered the lanes, or each
    lane is a separate run. Rows that are not valid have any lane and number.

    Args:
        rows: uint32 `[rows, words]`.
        position: The position of each row on the vmapped axes of its device, int64 `[rows]`.
        valid: bool `[blocks, rows]`.
        lanes: Number of lanes of a device.
        vmapped: True if there are such axes.
    """
    given = rows[:, Header.LANE].view(np.int32).astype(np.int64)
    device = rows[:, Header.DEVICE].view(np.int32).astype(np.int64)
    over_devices = device >= 0
    if not (vmapped or over_devices.any()):
        return given, np.zeros(len(rows), np.int64)
    counted = np.where(over_devices, device * lanes + position, position if vmapped else NONE)
    runs = np.where(valid, rows[:, Header.RUN].reshape(valid.shape), 0)
    alone = ((runs == runs.max(axis=1, keepdims=True)) | (runs == 0)).all(axis=1)
    known = np.repeat(alone, valid.shape[1]) & (given < 0) & (over_devices | vmapped)
    numbers = np.where(known, rows[:, Header.DEVICES].astype(np.int64) * lanes, 0)
    return np.where(given >= 0, given, counted), numbers


def _fingerprints(rows: np.ndarray) -> np.ndarray:
    """Return a multilinear hash of the words of each row, int64 `[rows]`."""
    return (rows @ _multipliers(rows.shape[1])).view(np.int64)


@functools.lru_cache(maxsize=64)
def _multipliers(words: int) -> np.ndarray:
    # Odd, so that rows that differ in one word never have one fingerprint.
    return np.random.default_rng(words).integers(2**64, size=words, dtype=np.uint64) | np.uint64(1)


def _join(parts: Sequence[_Part], blocks: Sequence[Block]) -> tuple[np.ndarray, Rows]:
    """Return the run handle of each row, and the rows in the order of their blocks."""
    block = _concatenate([part.block for part in parts])
    order = np.argsort(block, kind="stable") if len(parts) > 1 else slice(None)
    headers = _concatenate([part.words[:, :HEADER] for part in parts])[order]
    unsigned = headers.T.astype(np.int64)
    table, place, tables = _tables(parts)
    sequence = unsigned[Header.SEQUENCE]
    sequence[sequence == NO_SEQUENCE] = NONE
    high = headers[:, Header.STEP_HIGH].astype(np.uint64) << np.uint64(32)
    return headers[:, Header.RUN], Rows(
        sequence=sequence,
        fingerprint=_concatenate([part.fingerprint for part in parts])[order],
        step=headers[:, Header.STEP_LOW] | high,
        iteration=headers[:, Header.ITERATION].view(np.int32).astype(np.int64),
        lane=_concatenate([part.lane for part in parts])[order],
        wall_time=np.array([one.wall_time for one in blocks])[block[order]],
        lanes=_concatenate([part.lanes for part in parts])[order],
        execution=unsigned[Header.EXECUTION],
        table=table[order],
        place=place[order],
        tables=tables,
    )


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _tables(parts: Sequence[_Part]) -> tuple[np.ndarray, np.ndarray, list[PackedTable]]:
    """Return the table and the place in it of each row of the parts, and the tables."""
    table, place, tables = [], [], []
    for part in parts:
        of_table = np.empty(len(part.words), np.int64)
        in_table = np.empty(len(part.words), np.int64)
        for number, which in _groups(part.words[:, Header.SCHEMA]):
            chosen = slice(None) if which is None else which
            words = part.words[chosen]
            of_table[chosen] = len(tables)
            in_table[chosen] = np.arange(len(words))
            tables.append(PackedTable(kind_of(number), words))
        table.append(of_table)
        place.append(in_table)
    return _concatenate(table), _concatenate(place), tables


def _groups(keys: np.ndarray) -> list[tuple[int, np.ndarray | None]]:
    """Return each key, and its positions; None for all."""
    first = int(keys[0])
    if (keys == first).all():  # the common case
        return [(first, None)]
    return [(int(key), np.flatnonzero(keys == key)) for key in np.unique(keys)]
