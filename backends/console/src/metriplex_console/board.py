"""The state that a display shows of a run: the newest value of every tag and lane."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from metriplex_console.sparkline import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex import Scalar, Scalars

RATE_TAG = "time/steps_per_second"
_RATE_WINDOW_SECONDS = 20.0
_RATE_WINDOW_POINTS = 40


def as_float(value: Scalar) -> float:
    """Return the float nearest to a value: an infinity for an integer beyond all floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@final
@dataclass(frozen=True, slots=True)
class TagValues:
    """The newest value of every lane that has logged a tag; at least one."""

    tag: str
    values: tuple[Scalar, ...]

    def summary(self) -> Summary:
        """Return statistics over the lanes, of the finite values."""
        finite = [v for v in map(as_float, self.values) if math.isfinite(v)]
        if len(self.values) == 1 or not finite:
            return Summary(self.values[0])
        low, high = min(finite), max(finite)
        if low == high and len(finite) == len(self.values):
            return Summary(self.values[0], 0.0, low, high)
        mean = min(max(math.fsum(finite) / len(finite), low), high)
        variance = math.fsum((v - mean) ** 2 for v in finite) / len(finite)
        return Summary(mean, math.sqrt(variance), low, high)


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """The value of the only lane, or mean, population standard deviation and range over lanes."""

    value: Scalar
    std: float | None = None
    low: float | None = None
    high: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A board at one moment.

    Attributes:
        records: Number of records so far; it grows with every change of the board.
        step: The greatest of the lanes' newest steps.
        lanes: Number of lanes that have logged; 0 for a run that is not vmapped.
        tags: Every tag, in the order of first appearance.
        steps_per_second: The value logged under `time/steps_per_second`, else computed from the
            arrival times of the newest records; None while unknown.
        history: Step and value of the charted tag over the whole run, averaged over lanes.
    """

    records: int = 0
    step: int | None = None
    iteration: int | None = None
    lanes: int = 0
    tags: tuple[TagValues, ...] = ()
    steps_per_second: float | None = None
    history: tuple[tuple[int, float], ...] = field(default=(), repr=False)


@final
class Board:
    """Newest values per tag and lane, and the history of one tag; thread-safe.

    A record costs a few dictionary assignments. `snapshot` copies; statistics are computed from the
    copy, in the thread that draws.
    """

    def __init__(self, charted: str | None) -> None:
        self._charted = charted
        self._lock = threading.Lock()
        self._newest: dict[str, dict[int | None, Scalar]] = {}
        self._steps: dict[int | None, int] = {}
        self._iteration: int | None = None
        self._history = History()
        self._records = 0
        self._pace: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW_POINTS)
        self._last = (0.0, 0)

    def update(self, records: Sequence[Scalars]) -> None:
        """Add records in the order in which they were logged."""
        with self._lock:
            for record in records:
                self._add(record)

    def _add(self, record: Scalars) -> None:
        lane = record.lane
        self._records += 1
        self._steps[lane] = record.step
        if record.iteration is not None:
            self._iteration = record.iteration
        for tag, value in record.values.items():
            self._newest.setdefault(tag, {})[lane] = value
        if self._charted is not None and self._charted in record.values:
            self._history.add(record.step, as_float(record.values[self._charted]))
        self._keep_pace(record.wall_time, record.step)

    def _keep_pace(self, time: float, step: int) -> None:
        if self._pace and step < self._last[1]:
            if step <= self._pace[0][1]:
                self._pace.clear()  # the steps went back: a new start
            else:
                return  # a lane that lags
        self._last = (time, step)
        if not self._pace or time - self._pace[-1][0] >= _RATE_WINDOW_SECONDS / _RATE_WINDOW_POINTS:
            self._pace.append(self._last)

    @property
    def records(self) -> int:
        """Return the number of records so far."""
        return self._records

    def snapshot(self) -> Snapshot:
        """Return a copy of the current state."""
        with self._lock:
            return Snapshot(
                records=self._records,
                step=max(self._steps.values(), default=None),
                iteration=self._iteration,
                lanes=sum(lane is not None for lane in self._steps),
                tags=tuple(TagValues(t, tuple(v.values())) for t, v in self._newest.items()),
                steps_per_second=self._rate(),
                history=tuple(self._history.points()),
            )

    def _rate(self) -> float | None:
        logged = self._newest.get(RATE_TAG)
        if logged is not None:
            finite = [v for v in map(as_float, logged.values()) if math.isfinite(v)]
            return sum(finite) / len(finite) if finite else None
        if not self._pace:
            return None
        (then, before), (now, step) = self._pace[0], self._last
        return (step - before) / (now - then) if now > then and step > before else None
