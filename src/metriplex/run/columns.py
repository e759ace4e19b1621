"""Records as columns of numbers, for statistics over lanes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, final

import numpy as np

from metriplex.bridge.rows import column, tabulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.bridge.rows import Rows
    from metriplex.records import Scalars


@final
@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Scalar records as columns; -1 stands for None.

    Attributes:
        tags: The tags.
        values: float64 `[records, tags]`, NaN where a record lacks the tag.
        step: uint64 `[records]`.
        iteration: int64 `[records]`.
        lane: int64 `[records]`.
        wall_time: float64 `[records]`.
    """

    tags: tuple[str, ...]
    values: np.ndarray
    step: np.ndarray
    iteration: np.ndarray
    lane: np.ndarray
    wall_time: np.ndarray

    @classmethod
    def of(cls, records: Sequence[Scalars]) -> Columns:
        """Return the records that have a lane as columns."""
        records = [record for record in records if record.lane is not None]
        tags, values = tabulate([record.values for record in records])
        return cls(
            tags,
            values,
            step=np.array([record.step for record in records], np.uint64),
            iteration=column([record.iteration for record in records]),
            lane=column([record.lane for record in records]),
            wall_time=np.array([record.wall_time for record in records], np.float64),
        )

    @classmethod
    def of_rows(cls, rows: Rows) -> Columns:
        """Return rows that are records as columns."""
        tags, values = rows.numbers()
        return cls(tags, values, rows.step, rows.iteration, rows.lane, rows.wall_time)

    @classmethod
    def join(cls, parts: Sequence[Columns]) -> Columns:
        """Return the records of one or more parts, which may have different tags."""
        if len(parts) == 1:
            return parts[0]
        tags = tuple(dict.fromkeys(tag for part in parts for tag in part.tags))
        values = np.full((sum(map(len, parts)), len(tags)), np.nan)
        end = 0
        for part in parts:
            start, end = end, end + len(part)
            values[start:end, [tags.index(tag) for tag in part.tags]] = part.values
        return cls(
            tags,
            values,
            step=np.concatenate([part.step for part in parts]),
            iteration=np.concatenate([part.iteration for part in parts]),
            lane=np.concatenate([part.lane for part in parts]),
            wall_time=np.concatenate([part.wall_time for part in parts]),
        )

    def take(self, positions: np.ndarray | slice) -> Columns:
        """Return some of the records: positions, or bool `[records]`."""
        return Columns(
            self.tags,
            self.values[positions],
            self.step[positions],
            self.iteration[positions],
            self.lane[positions],
            self.wall_time[positions],
        )

    def __len__(self) -> int:
        return len(self.values)
