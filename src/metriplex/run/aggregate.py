"""Compute statistics over the lanes of a run, on the host."""

from __future__ import annotations

import math
from typing import final

import numpy as np

from metriplex.bridge.rows import changes, optional
from metriplex.records import Scalar, Scalars
from metriplex.run.columns import Columns

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


def aggregate(columns: Columns) -> Scalars:
    """Return a record with the statistics of each tag over one or more records of different lanes.

    Tags without a finite value and tags of the program's clock (`time/...`) are left out. The step
    and the wall time are the greatest of all records.
    """
    measured = [index for index, tag in enumerate(columns.tags) if not tag.startswith(CLOCK)]
    tags = [columns.tags[index] for index in measured]
    table = columns.values[:, measured]
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
        step=int(columns.step.max()),
        values={
            f"{PREFIX}/{tag}/{name}": value
            for tag in tags
            for name, value in found.get(tag, {}).items()
        },
        iteration=optional(columns.iteration[:1])[0],
        wall_time=float(columns.wall_time.max()),
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
        self._waiting: dict[int, list[Columns]] = {}
        self._newest: dict[int, int] = {}
        self._done = -1
        self.late = 0

    def push(self, records: Columns) -> list[Scalars]:
        """Add records, in order within each lane; return the complete aggregates, in order.

        Records without a lane are ignored.
        """
        records = records.take(records.lane >= 0)
        due: list[Scalars] = []
        rest = records.take(records.iteration >= 0)
        while len(rest):
            order = np.argsort(rest.lane, kind="stable")
            restart = self._first_restart(rest.lane[order], rest.iteration[order], order)
            self._add(rest.take(slice(restart)))
            if restart is None:
                break
            due += self.release()
            rest = rest.take(slice(restart, None))
        loose = records.take(records.iteration < 0)
        for step in dict.fromkeys(loose.step.tolist()):
            due.append(aggregate(loose.take(loose.step == step)))
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

    def _first_restart(
        self, lane: np.ndarray, iteration: np.ndarray, position: np.ndarray
    ) -> int | None:
        """Return the first position of a record whose lane has had its iteration or a later one.

        None if there is none: each program goes on. The records are sorted by lane.
        """
        before = np.roll(iteration, 1)
        firsts = _firsts(lane)
        before[firsts] = [self._newest.get(one, -1) for one in lane[firsts].tolist()]
        again = position[iteration <= before]
        return int(again.min()) if len(again) else None

    def _add(self, records: Columns) -> None:
        """Add records, in which the iterations of each lane rise."""
        if not len(records):
            return
        self._newest.update(zip(records.lane.tolist(), records.iteration.tolist(), strict=True))
        order = np.argsort(records.iteration, kind="stable")
        for which in np.split(order, _firsts(records.iteration[order])[1:]):
            iteration = int(records.iteration[which[0]])
            if iteration > self._done:
                self._waiting.setdefault(iteration, []).append(records.take(which))
            else:
                self.late += len(which)

    def _aggregate(self, iteration: int) -> Scalars:
        self._done = iteration
        return aggregate(Columns.join(self._waiting.pop(iteration)))


def _firsts(keys: np.ndarray) -> np.ndarray:
    """Return the positions at which a sorted array, which isn't empty, has a new key."""
    return np.concatenate([[0], changes(keys).nonzero()[0] + 1])
