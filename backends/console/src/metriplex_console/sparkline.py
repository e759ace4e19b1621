"""The history of one metric in bounded memory, and a small chart of the history."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " _.-=*#%@"


@final
class History:
    """Means of a metric over equal ranges of steps, for a whole run.

    The ranges start one step wide; whenever more than `capacity` of them are filled, neighbors are
    merged into ranges twice as wide. So memory is bounded, adding costs O(1) amortized, the values
    of all lanes at one step become one point, and records may come in any order. Not thread-safe.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._width = 1
        self._buckets: dict[int, tuple[float, int]] = {}

    def add(self, step: int, value: float) -> None:
        """Add a value at a step; values that are not finite are ignored."""
        if not math.isfinite(value):
            return
        index = step // self._width
        total, count = self._buckets.get(index, (0.0, 0))
        self._buckets[index] = (total + value, count + 1)
        while len(self._buckets) > self._capacity:
            self._merge()

    def _merge(self) -> None:
        self._width *= 2
        merged: dict[int, tuple[float, int]] = {}
        for index, (total, count) in self._buckets.items():
            old_total, old_count = merged.get(index // 2, (0.0, 0))
            merged[index // 2] = (old_total + total, old_count + count)
        self._buckets = merged

    def points(self) -> list[tuple[int, float]]:
        """Return the first step of every filled range and the mean over the range, by step."""
        return [(i * self._width, t / n) for i, (t, n) in sorted(self._buckets.items())]


def resample(points: Sequence[tuple[int, float]], width: int) -> list[float]:
    """Resample points, ordered by step, to `min(width, len(points))` values at equal distances.

    A value is the mean of the points in its range of steps; the previous value if there are none.
    """
    columns = min(width, len(points))
    if columns < 1:
        return []
    first, last = points[0][0], points[-1][0]
    span = last - first + 1
    totals = [0.0] * columns
    counts = [0] * columns
    for step, value in points:
        column = (step - first) * columns // span
        totals[column] += value
        counts[column] += 1
    values: list[float] = []
    for total, count in zip(totals, counts, strict=True):
        values.append(total / count if count else values[-1])
    return values


def sparkline(values: Sequence[float], rows: int = 1, blocks: str = BLOCKS) -> list[str]:
    """Draw finite values as a chart of block characters: `rows` strings, the top one first.

    Each value is one column. The lowest value is one eighth of a row high and the highest fills all
    rows; a series that never changes is drawn half high. `blocks` are nine characters, from empty
    to full.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7])
    ['▁▂▃▄▅▆▇█']
    """
    steps = len(blocks) - 1
    levels = [1 + round(h * (rows * steps - 1)) for h in _relative(values)]
    return [
        "".join(blocks[min(max(level - row * steps, 0), steps)] for level in levels)
        for row in reversed(range(rows))
    ]


def _relative(values: Sequence[float]) -> list[float]:
    """Return heights in [0, 1]."""
    if not values:
        return []
    low, high = min(values), max(values)
    scale = max(abs(low), abs(high))
    if high == low:
        return [0.5] * len(values)
    # Scaled first, so that the range of two huge values doesn't overflow.
    low, span = low / scale, high / scale - low / scale
    if span <= 0:
        return [0.5] * len(values)
    return [min(max((v / scale - low) / span, 0.0), 1.0) for v in values]
