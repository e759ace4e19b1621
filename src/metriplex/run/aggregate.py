"""Statistics over the lanes of a run: what many seeds have in common, on the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np

from metriplex.records import Scalar, Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFIX = "aggregate"
"""Stands before the tags of statistics: `aggregate/episode/return/mean`."""

CLOCK = "time/"

PENDING = 16
"""How many iterations may wait for lanes that lag behind."""


def statistics(columns: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of columns, each over its rows.

    The interquartile mean is that of the middle half of the values: a quarter of them, rounded
    down, is left out at either end. It is less moved by outliers than the mean, and needs fewer
    seeds than the median (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
    statistical precipice", section 4.3).

    Args:
        columns: float64 `[values, columns]`, finite, at least one value.

    Returns:
        Name to float64 `[columns]`: `mean`, `std` (of the population, so 0 for one value), `min`,
        `max`, `median` and `iqm`.

    >>> statistics(np.array([[0.0], [1.0], [2.0], [3.0], [100.0]]))["iqm"].tolist()
    [2.0]
    """
    ordered = np.sort(columns, axis=0)
    cut = len(ordered) // 4
    with np.errstate(over="ignore", invalid="ignore"):  # sums of huge values, which have no mean
        return {
            "mean": ordered.mean(axis=0),
            "std": ordered.std(axis=0),
            "min": ordered[0],
            "max": ordered[-1],
            "median": np.median(ordered, axis=0),
            "iqm": ordered[cut : len(ordered) - cut].mean(axis=0),
        }


def aggregate(records: Sequence[Scalars]) -> Scalars:
    """One record, of the run itself, from records of its lanes.

    Args:
        records: Records of different lanes that belong together; at least one.

    Returns:
        For each tag of any lane its statistics over those lanes that have it, and whose value is
        finite; tags that no such lane has, and what the clock says of the program that they share
        (`time/...`), are absent. The step is the greatest.
    """
    tags = list(dict.fromkeys(tag for record in records for tag in record.values))
    tags = [tag for tag in tags if not tag.startswith(CLOCK)]
    table = np.array(
        [[record.values.get(tag, np.nan) for tag in tags] for record in records], np.float64
    ).reshape(len(records), len(tags))
    there = np.isfinite(table)
    counts = there.sum(axis=0)
    table = np.sort(np.where(there, table, np.inf), axis=0)  # what is absent comes last
    found: dict[str, dict[str, Scalar]] = {}
    for count in np.unique(counts[counts > 0]):
        (alike,) = np.nonzero(counts == count)
        for name, values in statistics(table[:count, alike]).items():
            for column, value in zip(alike.tolist(), values.tolist(), strict=True):
                if math.isfinite(value):
                    found.setdefault(tags[column], {})[name] = value
    return Scalars(
        step=max(record.step for record in records),
        values={
            f"{PREFIX}/{tag}/{name}": value
            for tag in tags
            for name, value in found.get(tag, {}).items()
        },
        iteration=records[0].iteration,
        wall_time=max(record.wall_time for record in records),
    )


@final
class Aggregator:
    """Gathers the records of lanes by iteration, and aggregates those that are whole.

    An iteration is whole once every lane has gone on to a later one. A lane that lags, or logs no
    more, holds up `PENDING` iterations; what it logs of older ones is left out. Records outside of
    iterations are aggregated by step, over the lanes that arrive together. Not thread-safe.

    Args:
        lanes: How many lanes there are; 0 if that is not known, and then all that were seen.

    Attributes:
        lanes: As above; may be set anew once more is known.
        late: Records that came too late for their iteration.
    """

    def __init__(self, lanes: int = 0) -> None:
        self.lanes = lanes
        self._waiting: dict[int, dict[int, Scalars]] = {}
        self._newest: dict[int, int] = {}
        self._done = -1
        self.late = 0

    def push(self, records: Iterable[Scalars]) -> list[Scalars]:
        """Takes records, those of each lane in order.

        Args:
            records: Of lanes; others are passed over.

        Returns:
            The aggregates that are due now, in order.
        """
        due: list[Scalars] = []
        loose: dict[int, list[Scalars]] = {}
        for record in records:
            lane, iteration = record.lane, record.iteration
            if lane is None:
                continue
            if iteration is None:
                loose.setdefault(record.step, []).append(record)
                continue
            if iteration <= self._newest.get(lane, -1):  # the program was started anew
                due += self.release()
            self._newest[lane] = iteration
            if iteration > self._done:
                self._waiting.setdefault(iteration, {})[lane] = record
            else:
                self.late += 1
        due += [aggregate(of_step) for of_step in loose.values()]
        known = len(self._newest) >= self.lanes
        passed = min(self._newest.values(), default=0) if known else 0
        ready = sorted(self._waiting)
        late = len(ready) - PENDING
        return due + [
            self._take(iteration)
            for place, iteration in enumerate(ready)
            if iteration < passed or place < late
        ]

    def release(self) -> list[Scalars]:
        """Aggregates what waits, whole or not: the program has ended."""
        due = [self._take(iteration) for iteration in sorted(self._waiting)]
        self._newest.clear()
        self._done = -1
        return due

    def _take(self, iteration: int) -> Scalars:
        self._done = iteration
        return aggregate(list(self._waiting.pop(iteration).values()))
