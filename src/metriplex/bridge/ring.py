"""The transport without callbacks: rows wait in the state, and are taken out between programs."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from metriplex.bridge.decode import Block
from metriplex.bridge.packing import Header

if TYPE_CHECKING:
    from jax.typing import ArrayLike

logger = logging.getLogger("metriplex")

DRAIN_NEEDS_JIT = (
    'with `transport="drain"` the state has to leave the program, which `shard_map` and `pmap` '
    "would do a device: use `jit` over sharded arrays, or the default transport"
)

_undrained: dict[int, bool] = {}
"""Handles of runs that were never drained, and whether programs log to them."""


def take_rows(buffer: ArrayLike, buffered: ArrayLike) -> tuple[list[Block], int]:
    """The rows of a ring, in the order in which lanes would send them.

    Args:
        buffer: uint32 `[*lanes, rows, words]`; a lane's row i is at place i modulo the rows.
        buffered: int32 `[*lanes]`, how many rows each lane has put there.

    Returns:
        A block for each row that any lane has, the oldest first, and how many rows were overwritten
        by later ones.
    """
    words, counts = np.asarray(buffer), np.asarray(buffered)
    height = words.shape[-2]
    first = np.maximum(counts - height, 0)
    number = first[..., None] + np.arange(height)
    rows = np.take_along_axis(words, (number % height)[..., None], axis=-2)
    rows[..., Header.VALID] *= number < counts[..., None]
    now = time.time()
    longest = int((counts - first).max(initial=0))
    blocks = [Block(rows[..., place : place + 1, :], now) for place in range(longest)]
    return blocks, int(first.sum())


def report_lost(name: str, lost: int, height: int) -> None:
    """Tells of rows that found no room."""
    if lost:
        logger.error(
            "run `%s`: %d record(s) are lost, as later ones took their place in the buffer: call "
            "`drain` more often, or construct the callback with a `buffer` of more than %d",
            name,
            lost,
            height,
        )


def expect_drain(handle: int) -> None:
    """A run begins whose rows have to be taken out."""
    _undrained[handle] = False


def note_program(handle: int) -> None:
    """The run gets a state, or is given to a program, as far as the host sees that."""
    if handle in _undrained:
        _undrained[handle] = True


def note_drain(handle: int) -> None:
    """Rows of the run are taken out."""
    _undrained.pop(handle, None)


def report_undrained(handle: int, name: str) -> None:
    """Tells of a run that ends without a call of `drain`, if programs log to it."""
    if _undrained.pop(handle, False):
        logger.warning(
            'run `%s` is closed and `drain` was never called: with `transport="drain"` records '
            "stay in the state, and what its programs have logged is lost; call `state = "
            "metrics.drain(state)` between two programs and after the last one, or construct the "
            "callback with the default transport",
            name,
        )
