"""Order and exactly-once for the rows of one lane, by their sequence numbers."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, final

WINDOW = 64
"""How far ahead of the next expected row one may be before the gap is taken for the program's own."""

MEMORY = 4096
"""How many delivered rows are remembered, to tell a duplicate from a program that starts again."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One decoded row.

    Attributes:
        kind: `"start"`, `"record"` or `"end"`.
        sequence: Position in the lane's stream, from 0; None for a row that is delivered as it
            comes.
        fingerprint: Equal for two copies of one row.
        step: Environment steps taken.
        iteration: The training iteration; None outside one.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        values: Tag to value.
        wall_time: Seconds since the Unix epoch at which the row reached the host.
    """

    kind: str
    sequence: int | None
    fingerprint: int
    step: int
    iteration: int | None
    lane: int | None
    values: dict[str, Any]
    wall_time: float


@final
class Sequencer:
    """Puts the rows of one lane in order and drops duplicates. Used by the drain thread alone.

    Unordered callbacks may overtake each other; `jax.checkpoint` and devices that hold the same
    values repeat them. A program that is run a second time counts from 0 again: a row whose number
    has passed and whose content differs from the row of that number starts the stream anew.

    Args:
        first: The number of the lane's first row.
    """

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._early: dict[int, Row] = {}
        self._delivered: collections.OrderedDict[int, int] = collections.OrderedDict()
        self._ended = False
        self.duplicates = 0

    @property
    def expected(self) -> int:
        """The number of the next row."""
        return self._next

    def push(self, row: Row) -> list[Row]:
        """Takes a row as it arrives.

        Returns:
            The rows that are due now, in order: none, if this one is early or a duplicate.
        """
        number = row.sequence
        if number is None:
            return [row]
        if number == self._next:
            if not self._early and number:  # the usual case, kept short
                self._deliver(row)
                return [row]
        elif number < self._next:
            if not self._starts_again(row):
                self.duplicates += 1
                return []
            due = self.release()
            self._restart(number)
            return [*due, *self.push(row)]
        elif number in self._early:
            self.duplicates += 1
            return []
        self._early[number] = row
        due = self._ready()
        if len(self._early) > WINDOW:
            due += self.release()
        return due

    def release(self) -> list[Row]:
        """The early rows, in order, across whatever gaps are left: no earlier row will come."""
        due = []
        while self._early:
            self._next = min(self._early)
            due += self._ready()
        return due

    def _ready(self) -> list[Row]:
        due = []
        while (row := self._early.pop(self._next, None)) is not None:
            self._deliver(row)
            due.append(row)
        return due

    def _deliver(self, row: Row) -> None:
        number = self._next
        self._delivered[number] = row.fingerprint
        if len(self._delivered) > MEMORY:
            self._delivered.popitem(last=False)
        self._next = number + 1
        self._ended = row.kind == "end"

    def _starts_again(self, row: Row) -> bool:
        known = self._delivered.get(row.sequence if row.sequence is not None else -1)
        return known != row.fingerprint or (self._ended and row.sequence == 0)

    def _restart(self, number: int) -> None:
        self._next = number
        self._delivered.clear()
        self._ended = False
