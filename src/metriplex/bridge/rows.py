"""Define the rows that the receiver decodes: columns, and values that are made on demand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, final, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NONE = -1
"""The number that stands for None in a column."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One decoded row.

    Attributes:
        kind: `"start"`, `"record"`, `"video"` or `"end"`.
        sequence: Position in the lane's stream, from 0; None for a row without an order.
        fingerprint: Equal for two copies of one row.
        step: Environment steps taken so far.
        iteration: The training iteration; None outside one.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        values: Tag to value.
        wall_time: Seconds since the Unix epoch at which the row reached the host.
        lanes: Number of lanes of the row's program; 0 if it is unknown.
        execution: Number of the execution of a program that made the row's state.
    """

    kind: str
    sequence: int | None
    fingerprint: int
    step: int
    iteration: int | None
    lane: int | None
    values: dict[str, Any]
    wall_time: float
    lanes: int = 0
    execution: int = 0


class Table(Protocol):
    """The values of rows of one kind."""

    @property
    def kind(self) -> str:
        """Return the kind of the rows."""

    def values(self) -> list[dict[str, Any]]:
        """Return the values of each row, by tag; made once. Any thread."""

    def are_clean(self, may_be_nan: Callable[[str], bool]) -> bool:
        """Return True if each row has values, all finite, or NaN where that is allowed.

        Return False if that is unknown.
        """

    def numbers(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the tags, and the scalars, float64 `[rows, tags]`, NaN where a row has none."""


@final
class MadeTable:
    """A table of values that exist."""

    def __init__(self, kind: str, values: list[dict[str, Any]]) -> None:
        self.kind = kind
        self._values = values

    def values(self) -> list[dict[str, Any]]:
        """Return the values of each row."""
        return self._values

    def are_clean(self, may_be_nan: Callable[[str], bool]) -> bool:  # noqa: ARG002
        """Return False: the values are not examined."""
        return False

    def numbers(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the tags, and the scalars."""
        return tabulate(self._values)


@final
@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Rows(Sequence[Row]):
    """The rows of one run that are read together, in the order of their arrival.

    The columns are arrays `[rows]` of what the attributes of `Row` are, with -1 for None. Reading
    them makes no object for each row; reading an item makes the values of its table.

    Attributes:
        sequence: int64.
        fingerprint: int64.
        step: uint64.
        iteration: int64.
        lane: int64.
        wall_time: float64.
        lanes: int64.
        execution: int64.
        table: Index of the table that has the row's values, int64.
        place: Position of the row in that table, int64.
        tables: The tables.
    """

    sequence: np.ndarray
    fingerprint: np.ndarray
    step: np.ndarray
    iteration: np.ndarray
    lane: np.ndarray
    wall_time: np.ndarray
    lanes: np.ndarray
    execution: np.ndarray
    table: np.ndarray
    place: np.ndarray
    tables: Sequence[Table]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Rows:
        """Return single rows as columns."""
        kinds = {kind: index for index, kind in enumerate(dict.fromkeys(row.kind for row in rows))}
        values: list[list[dict[str, Any]]] = [[] for _ in kinds]
        place = []
        for row in rows:
            place.append(len(values[kinds[row.kind]]))
            values[kinds[row.kind]].append(row.values)
        return cls(
            sequence=column([row.sequence for row in rows]),
            fingerprint=column([row.fingerprint for row in rows]),
            step=np.array([row.step for row in rows], np.uint64),
            iteration=column([row.iteration for row in rows]),
            lane=column([row.lane for row in rows]),
            wall_time=np.array([row.wall_time for row in rows], np.float64),
            lanes=column([row.lanes for row in rows]),
            execution=column([row.execution for row in rows]),
            table=column([kinds[row.kind] for row in rows]),
            place=column(place),
            tables=[MadeTable(kind, values[index]) for kind, index in kinds.items()],
        )

    def take(self, positions: np.ndarray) -> Rows:
        """Return some of the rows, int64 positions or bool `[rows]`."""
        columns = (getattr(self, field.name) for field in dataclasses.fields(self)[:-1])
        return Rows(*(column[positions] for column in columns), tables=self.tables)

    def of_kind(self, kind: str) -> np.ndarray:
        """Return the positions of the rows of a kind."""
        wanted = [index for index, table in enumerate(self.tables) if table.kind == kind]
        if len(wanted) == len(self.tables):
            return np.arange(len(self))
        found = np.zeros(len(self), np.bool_)
        for index in wanted:
            found |= self.table == index
        return found.nonzero()[0]

    def by_stream(self, chosen: np.ndarray) -> list[tuple[int | None, int, np.ndarray]]:
        """Return the lane, the execution and the positions of each stream, in order of arrival.

        Args:
            chosen: The positions of the rows that count, increasing.
        """
        if not len(chosen):
            return []
        lane, execution = self.lane[chosen], self.execution[chosen]
        if (execution != execution[0]).any():
            order = np.lexsort((lane, execution))
        elif (lane != lane[0]).any():
            order = lane.argsort(kind="stable")
        else:
            return [(optional(lane[:1])[0], int(execution[0]), chosen)]
        lane, execution, positions = lane[order], execution[order], chosen[order]
        starts = [0, *(changes(lane) | changes(execution)).nonzero()[0] + 1]
        streams = zip(
            optional(lane[starts]),
            execution[starts].tolist(),
            np.split(positions, starts[1:]),
            strict=True,
        )
        return sorted(streams, key=lambda stream: int(stream[2][0]))

    def values(self) -> list[dict[str, Any]]:
        """Return the values of each row, by tag; equal for each call."""
        tables = [table.values() for table in self.tables]
        if len(tables) == 1:
            return [tables[0][place] for place in self.place.tolist()]
        pairs = zip(self.table.tolist(), self.place.tolist(), strict=True)
        return [tables[table][place] for table, place in pairs]

    def are_clean(self, may_be_nan: Callable[[str], bool]) -> bool:
        """Return True if each row has values, all finite, or NaN where that is allowed.

        Return False if that is unknown. Other rows of the same tables count too.
        """
        used = np.unique(self.table).tolist() if len(self.tables) > 1 else range(len(self.tables))
        return all(self.tables[index].are_clean(may_be_nan) for index in used)

    def numbers(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the tags, and the scalars, float64 `[rows, tags]`, NaN where a row has none."""
        found = [table.numbers() for table in self.tables]
        if len(found) == 1:
            tags, values = found[0]
            return tags, values[self.place]
        tags = tuple(dict.fromkeys(tag for some, _ in found for tag in some))
        joined = np.full((len(self), len(tags)), np.nan)
        for index, (some, values) in enumerate(found):
            which = np.flatnonzero(self.table == index)
            columns = [tags.index(tag) for tag in some]
            joined[which[:, None], columns] = values[self.place[which]]
        return tags, joined

    def __len__(self) -> int:
        return len(self.sequence)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        """Return the row at a position, or the rows of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        (row,) = self.take(np.array([index]))
        return row

    def __iter__(self) -> Iterator[Row]:
        """Yield each row."""
        kinds = [table.kind for table in self.tables]
        columns = zip(
            self.table.tolist(),
            optional(self.sequence),
            self.fingerprint.tolist(),
            self.step.tolist(),
            optional(self.iteration),
            optional(self.lane),
            self.values(),
            self.wall_time.tolist(),
            self.lanes.tolist(),
            self.execution.tolist(),
            strict=True,
        )
        return (Row(kinds[table], *others) for table, *others in columns)


def optional(column: np.ndarray) -> list[int | None]:
    """Return the items of a column, with None for -1."""
    items = column.tolist()
    return [None if item < 0 else item for item in items] if (column < 0).any() else items


def changes(column: np.ndarray) -> np.ndarray:
    """Return True for each item of a column but the last one that differs from the next item."""
    return column[1:] != column[:-1]


def column(items: Sequence[int | None]) -> np.ndarray:
    """Return integers as a column, int64, with -1 for None."""
    return np.array([NONE if item is None else item for item in items], np.int64)


def tabulate(values: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the tags of mappings of scalars, and float64 `[mappings, tags]`, NaN for no value."""
    tags = tuple(dict.fromkeys(tag for one in values for tag in one))
    table = [[one.get(tag, np.nan) for tag in tags] for one in values]
    return tags, np.array(table, np.float64).reshape(len(values), len(tags))
