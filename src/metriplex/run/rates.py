"""Compute the steps a second of each lane."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np

from metriplex.bridge.rows import changes, optional

if TYPE_CHECKING:
    from metriplex.bridge.rows import Rows

STEPS_PER_SECOND = "time/steps_per_second"


@final
class Rates:
    """The steps a second between the records of each lane. Not thread-safe."""

    def __init__(self) -> None:
        self._newest: dict[int | None, tuple[int, float]] = {}

    def push(self, rows: Rows) -> np.ndarray:
        """Add rows; return the steps a second that each has, float64 `[rows]`, NaN for none."""
        rates = np.full(len(rows), np.nan)
        timed = _last_of_each_moment(rows)
        for start in rows.of_kind("start").tolist():
            before = timed < start
            self._fill(rates, rows, timed[before])
            timed = timed[~before]
            self._start(rows, start)
        self._fill(rates, rows, timed)
        return rates

    def _start(self, rows: Rows, position: int) -> None:
        (lane,) = optional(rows.lane[[position]])
        if lane is None:  # of all lanes
            self._newest.clear()
        self._newest[lane] = int(rows.step[position]), float(rows.wall_time[position])

    def _fill(self, rates: np.ndarray, rows: Rows, timed: np.ndarray) -> None:
        """Set the rates at these positions, which increase."""
        if not len(timed):
            return
        lane = rows.lane[timed]
        if changes(lane).any():
            order = lane.argsort(kind="stable")
            timed, lane = timed[order], lane[order]
        step, time = rows.step[timed], rows.wall_time[timed]
        ends = changes(lane).nonzero()[0]
        firsts, lasts = [0, *(ends + 1)], [*ends, len(lane) - 1]
        lanes = optional(lane[firsts])
        unknown = self._newest.get(None, (0, math.inf))
        known = [self._newest.get(one, unknown) for one in lanes]
        earlier_step, earlier_time = np.empty_like(step), np.empty_like(time)
        earlier_step[1:], earlier_time[1:] = step[:-1], time[:-1]
        earlier_step[firsts], earlier_time[firsts] = zip(*known, strict=True)
        newest = zip(step[lasts].tolist(), time[lasts].tolist(), strict=True)
        self._newest.update(zip(lanes, newest, strict=True))
        rises = (step > earlier_step) & (time > earlier_time)
        steps, seconds = step[rises] - earlier_step[rises], time[rises] - earlier_time[rises]
        rates[timed[rises]] = steps / seconds


def _last_of_each_moment(rows: Rows) -> np.ndarray:
    """Return the positions of the records that get a rate.

    Rows that were buffered on the device arrive at one time: the last one has the rate. Records
    outside of an iteration have an x axis of their own.
    """
    timed = rows.of_kind("record")
    timed = timed[rows.iteration[timed] >= 0]
    timed = timed[np.lexsort((rows.wall_time[timed], rows.lane[timed]))]
    ends = np.ones(len(timed), np.bool_)
    ends[:-1] = changes(rows.lane[timed]) | changes(rows.wall_time[timed])
    return np.sort(timed[ends])
