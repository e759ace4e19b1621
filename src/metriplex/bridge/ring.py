"""The transport without callbacks: rows wait in a ring in the state, which is drained by the host.

The host drains the ring between two programs, on the thread that calls `metrics.drain`.
"""

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


def take_rows(buffer: ArrayLike, buffered: ArrayLike) -> tuple[list[Block], int]:
    """Return the rows of a ring as blocks, the oldest first, and the number of overwritten rows.

    Args:
        buffer: uint32 `[*lanes, rows, words]`; a lane's row i is at place i modulo the rows.
        buffered: int32 `[*lanes]`, the number of rows that each lane has put there.
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
    """Log that rows of a ring of `height` rows were overwritten, if there are any."""
    if lost:
        logger.error(
            "run `%s`: %d record(s) are lost, as later ones took their place in the buffer: call "
            "`drain` more often, or construct the callback with a `buffer` of more than %d",
            name,
            lost,
            height,
        )


def report_undrained(name: str) -> None:
    """Log that a run ends without a call of `drain`, though programs log to it."""
    logger.warning(
        'run `%s` is closed and `drain` was never called: with `transport="drain"` records '
        "stay in the state, and what its programs have logged is lost; call `state = "
        "metrics.drain(state)` between two programs and after the last one, or construct the "
        "callback with the default transport",
        name,
    )
