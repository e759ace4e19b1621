"""Compute statistics over the lanes of a run, on the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np

from metriplex.records import Scalar, Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFIX = "aggregate"
"""Prefix of the tags of statistics: `aggregate/episode/return/mean`."""

CLOCK = "time/"
"""Prefix of the tags that measure the program, which all lanes share."""

PENDING = 16
"""Maximal number of iterations that wait for lanes that lag behind."""


def statistics(columns: np.ndarray) -> dict[str, np.ndarray]:
    """Return statistics of each column over its rows.

    The interquartile mean (IQM) is the mean of the middle half of the values: a quarter of the
    values, rounded down, is dropped at either end. The IQM is less sensitive to outliers than the
    mean, and needs fewer seeds than the median.

    Args:
        columns: float64 `[values, columns]`, finite, at least one value.

    Returns:
        Name to float64 `[columns]`: `mean`, `std` (of the population, so 0 for one value), `min`,
        `max`, `median` and `iqm`.

    References:
        Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
        Precipice", arXiv:2108.13264, section 4.3.

    >>> statistics(np.array([[0.0], [1.0], [2.0], [3.0], [100.0]]))["iqm"].tolist()
    [2.0]
    """
    ordered = np.sort(columns, axis=0)
    cut = len(ordered) // 4
    with np.errstate(over="ignore", invalid="ignore"):  # sums that overflow
        return {
            "mean": ordered.mean(axis=0),
            "std": ordered.std(axis=0),
            "min": ordered[0],
            "max": ordered[-1],
            "median": np.median(ordered, axis=0),
            "iqm": ordered[cut : len(ordered) - cut].mean(axis=0),
        }


def aggregate(records: Sequence[Scalars]) -> Scalars:
    """Return a record with the statistics of each tag over one or more records of different lanes.

    Tags without a finite value and tags of the program's clock (`time/...`) are left out. The step
    and the wall time are the greatest of all records.
    """
    tags = list(dict.fromkeys(tag for record in records for tag in record.values))
    tags = [tag for tag in tags if not tag.startswith(CLOCK)]
    table = np.array(
        [[record.values.get(tag, np.nan) for tag in tags] for record in records], np.float64
    ).reshape(len(records), len(tags))
    finite = np.isfinite(table)
    counts = finite.sum(axis=0)
    table = np.sort(np.where(finite, table, np.inf), axis=0)  # lanes without a value come last
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
    """Group the records of lanes by iteration, and aggregate complete iterations.

    An iteration is complete once every lane has logged a later iteration. A lane that lags, or
    stops logging, delays at most `PENDING` iterations; its records of older iterations are dropped.
    Records without an iteration are aggregated by step, over the lanes that arrive in one call.
    Not thread-safe.

    Args:
        lanes: Number of lanes, an attribute that may be updated; 0 if unknown, which waits for the
            lanes seen so far.

    Attributes:
        late: Number of records that were dropped because their iteration was already aggregated.
    """

    def __init__(self, lanes: int = 0) -> None:
        self.lanes = lanes
        self._waiting: dict[int, dict[int, Scalars]] = {}
        self._newest: dict[int, int] = {}
        self._done = -1
        self.late = 0

    def push(self, records: Iterable[Scalars]) -> list[Scalars]:
        """Add records, in order within each lane; return the complete aggregates, in order.

        Records without a lane are ignored.
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
            if iteration <= self._newest.get(lane, -1):  # the program was restarted
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
            self._aggregate(iteration)
            for place, iteration in enumerate(ready)
            if iteration < passed or place < late
        ]

    def release(self) -> list[Scalars]:
        """Aggregate all waiting iterations, complete or not, at the end of a program."""
        due = [self._aggregate(iteration) for iteration in sorted(self._waiting)]
        self._newest.clear()
        self._done = -1
        return due

    def _aggregate(self, iteration: int) -> Scalars:
        self._done = iteration
        return aggregate(list(self._waiting.pop(iteration).values()))
