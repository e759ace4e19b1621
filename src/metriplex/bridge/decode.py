"""Decode the blocks of words that host calls deliver into the rows of each run.

Blocks of one shape are decoded together, as most of the cost is a cost per call, not per row.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex.bridge.packing import NO_SEQUENCE, Header, unpack
from metriplex.bridge.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable


@final
@dataclasses.dataclass(slots=True, eq=False)
class Block:
    """The block of rows of one host call.

    Attributes:
        rows: uint32 `[*lanes, rows, words]`, an array of jax.
        wall_time: Seconds since the Unix epoch at which the block reached the host.
        execution: Number of the execution of which each device sends this block; None if one does.
        device: Number of the device that sent it.
        taken: True after the receiver thread has taken the block from the queue.
    """

    rows: Any
    wall_time: float
    execution: int | None = None
    device: int = 0
    taken: bool = False


def of_one_shape(blocks: Iterable[Block]) -> list[list[Block]]:
    """Return the blocks in order, as lists of equal shape that `read` accepts."""
    groups = itertools.groupby(blocks, key=lambda block: block.rows.shape)
    return [list(group) for _, group in groups]


def read(blocks: list[Block]) -> list[tuple[int, list[Row]]]:
    """Return each run handle in blocks of one shape, and its rows in the order of the blocks.

    Waits for the words of the blocks.
    """
    words = np.stack([np.asarray(block.rows) for block in blocks])
    count, *lane_shape, height, width = words.shape
    lanes = int(np.prod(lane_shape, dtype=int))
    rows = words.reshape(-1, width)
    valid = rows[:, Header.VALID] != 0
    rows = rows[valid]
    if not len(rows):
        return []
    position = np.tile(np.repeat(np.arange(lanes), height), count)[valid]
    lane = _lane_numbers(rows, position, lanes, vmapped=bool(lane_shape))
    known = _lane_counts(words, valid, lanes, vmapped=bool(lane_shape))
    time = np.repeat([block.wall_time for block in blocks], lanes * height)[valid]
    return [
        (run, _decode(rows[of_run], lane[of_run], known[of_run], time[of_run]))
        for run, of_run in _groups(rows[:, Header.RUN])
    ]


def _groups(keys: np.ndarray) -> list[tuple[int, Any]]:
    """Return each key, and an index of its positions."""
    first = int(keys[0])
    if (keys == first).all():  # the common case
        return [(first, slice(None))]
    return [(int(key), np.flatnonzero(keys == key)) for key in np.unique(keys)]


def _lane_numbers(
    rows: np.ndarray, position: np.ndarray, lanes: int, *, vmapped: bool
) -> np.ndarray:
    """Return the lane of each row, int64 `[rows]`; -1 for a row without a lane."""
    given = rows[:, Header.LANE].view(np.int32).astype(np.int64)
    device = rows[:, Header.DEVICE].view(np.int32).astype(np.int64)
    counted = np.where(device >= 0, device * lanes + position, position if vmapped else -1)
    return np.where(given >= 0, given, counted)


def _lane_counts(words: np.ndarray, valid: np.ndarray, lanes: int, *, vmapped: bool) -> np.ndarray:
    """Return the number of lanes of each row's program, int64 `[rows]`; 0 if it is unknown.

    The number is unknown if the user numbered the lanes, or if each lane is a separate run.
    """
    headers = words.reshape(len(words), -1, words.shape[-1])
    runs = np.where(valid.reshape(headers.shape[:2]), headers[..., Header.RUN], 0)
    alone = ((runs == runs.max(axis=1, keepdims=True)) | (runs == 0)).all(axis=1)
    given = headers[..., Header.LANE].view(np.int32) >= 0
    over_devices = headers[..., Header.DEVICE].view(np.int32) >= 0
    known = alone[:, None] & ~given & (over_devices | vmapped)
    return np.where(known, headers[..., Header.DEVICES] * lanes, 0).ravel()[valid]


def _decode(rows: np.ndarray, lane: np.ndarray, lanes: np.ndarray, time: np.ndarray) -> list[Row]:
    contents: list[Any] = [None] * len(rows)
    for _, chosen in _groups(rows[:, Header.SCHEMA]):
        places = range(len(rows))[chosen] if isinstance(chosen, slice) else chosen
        for place, content in zip(places, unpack(rows[chosen]), strict=True):
            contents[place] = content
    step = rows[:, Header.STEP_LOW] | rows[:, Header.STEP_HIGH].astype(np.uint64) << np.uint64(32)
    return [
        Row(
            kind=kind,
            sequence=None if number == NO_SEQUENCE else number,
            fingerprint=hash(row.tobytes()),
            step=at,
            iteration=None if index < 0 else index,
            lane=None if which < 0 else which,
            values=values,
            wall_time=moment,
            lanes=of,
            execution=execution,
        )
        for (kind, values), row, number, at, index, which, moment, of, execution in zip(
            contents,
            rows,
            rows[:, Header.SEQUENCE].tolist(),
            step.tolist(),
            rows[:, Header.ITERATION].view(np.int32).tolist(),
            lane.tolist(),
            time.tolist(),
            lanes.tolist(),
            rows[:, Header.EXECUTION].tolist(),
            strict=True,
        )
    ]
