"""Order and exactly-once for the rows of one lane, by their sequence numbers."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from metriplex.bridge.rows import Row

WINDOW = 256
"""How many rows may wait for an earlier one before it is taken for lost."""

MEMORY = 2**16
"""How many delivered rows are remembered (8 bytes each), to tell a duplicate from a new program."""


@final
class Sequencer:
    """Puts the rows of one lane in order and drops duplicates. Used by the drain thread alone.

    Unordered callbacks may overtake each other; `jax.checkpoint` and devices that hold the same
    values repeat them. A program that is run a second time counts from 0 again: a row whose number
    has passed is a duplicate if it equals the row of that number, and starts the stream anew if it
    differs, or if that row belonged to a program that has ended (`release`).

    Args:
        first: The number of the lane's first row.
    """

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._early: dict[int, Row] = {}
        self._memory = _Memory(first)
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
        due: list[Row] = []
        if number < self._next:
            known = self._memory.recall(number)
            if known == row.fingerprint:
                self.duplicates += 1
                return []
            if known is None and self._memory.begins_soon_after(number):
                self._memory.keep_late(number, row.fingerprint)
                return [row]
            due = self._hand_over()
            self._next = number
            self._memory = _Memory(number)
        if number == self._next:
            self._deliver(row)
            return [*due, row, *self._ready()] if self._early else [*due, row]
        if number in self._early:
            self.duplicates += 1
            return []
        self._early[number] = row
        return self._hand_over() if len(self._early) > WINDOW else []

    def release(self) -> list[Row]:
        """The early rows, in order, across whatever gaps are left; later rows equal none so far.

        Call it when no earlier row will come: when the program has ended, or a new one starts.
        """
        due = self._hand_over()
        self._memory = _Memory(self._next)
        return due

    def _hand_over(self) -> list[Row]:
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
        self._memory.keep(self._next, row.fingerprint)
        self._next += 1


@final
class _Memory:
    """The fingerprints of the newest `MEMORY` rows since the last gap, and of what came late."""

    def __init__(self, first: int) -> None:
        self._first = self._end = first
        self._ring = array.array("q")
        self._late: dict[int, int] = {}

    def keep(self, number: int, fingerprint: int) -> None:
        """Remembers a row, of a higher number than the one before."""
        if number != self._end:
            self._first = number
            self._ring = array.array("q")
        if len(self._ring) < MEMORY:
            self._ring.append(fingerprint)
        else:
            self._ring[(number - self._first) % MEMORY] = fingerprint
        self._end = number + 1

    def keep_late(self, number: int, fingerprint: int) -> None:
        """Remembers a row from before the first."""
        self._late[number] = fingerprint

    def recall(self, number: int) -> int | None:
        """The fingerprint of the row of this number; None if it isn't known."""
        if self._end - len(self._ring) <= number < self._end:
            return self._ring[(number - self._first) % MEMORY]
        return self._late.get(number)

    def begins_soon_after(self, number: int) -> bool:
        """Whether the first row has come, and one of this number may have been overtaken by it."""
        return bool(self._ring) and self._first - WINDOW <= number < self._first
