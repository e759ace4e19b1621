"""Order the rows of one lane by their sequence numbers, and drop duplicates."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from metriplex.bridge.rows import Row

WINDOW = 256
"""Maximal number of rows that wait for an earlier row before that row counts as lost."""

MEMORY = 2**16
"""Number of delivered rows kept (8 bytes each), to tell a duplicate from a new program."""


@final
class Sequencer:
    """Order the rows of one lane and drop duplicates. Only the receiver thread calls it.

    Unordered callbacks may overtake each other; `jax.checkpoint` and devices that hold the same
    values repeat them. A program that is run a second time counts from 0 again. A row with a number
    that was already delivered is a duplicate if its fingerprint equals that of the delivered row.
    The row restarts the stream if the fingerprints differ, or if the delivered row belonged to a
    program that has ended (`release`).

    Attributes:
        expected: Sequence number of the next row.
        duplicates: Number of rows that were dropped.
    """

    def __init__(self, first: int = 0) -> None:
        self.expected = first
        self._early: dict[int, list[Row]] = {}
        self._memory = _Memory(first)
        self.duplicates = 0

    def push_next(self, numbers: np.ndarray, fingerprints: np.ndarray) -> bool:
        """Add rows if they are the next ones, in order, and no row waits; return False otherwise.

        Args:
            numbers: Their sequence numbers, int64 `[rows]`.
            fingerprints: Their fingerprints, int64 `[rows]`.
        """
        end = self.expected + len(numbers)
        if self._early or (numbers != np.arange(self.expected, end)).any():
            return False
        self._memory.keep(self.expected, fingerprints)
        self.expected = end
        return True

    def push(self, row: Row) -> list[Row]:
        """Add a row; return the rows that can be delivered, none if it is early or a duplicate."""
        number = row.sequence
        if number is None:
            return [row]
        due: list[Row] = []
        if number < self.expected:
            known = self._memory.recall(number)
            if known == row.fingerprint:
                self.duplicates += 1
                return []
            if known is None and self._memory.begins_soon_after(number):
                self._memory.keep_late(number, row.fingerprint)
                return [row]
            due = self._pop_early()
            self.expected = number
            self._memory = _Memory(number)
        if number == self.expected:
            self._deliver(row)
            return [*due, row, *self._pop_ready()] if self._early else [*due, row]
        rivals = self._early.setdefault(number, [])
        if any(row.fingerprint == rival.fingerprint for rival in rivals):
            self.duplicates += 1
            return []
        rivals.append(row)
        return self._pop_early() if len(self._early) > WINDOW else []

    def release(self) -> list[Row]:
        """Return the early rows in order, across gaps, and forget all fingerprints.

        Call it when no earlier row will come: when the program has ended, or a new one starts.
        """
        due = self._pop_early()
        self._memory = _Memory(self.expected)
        return due

    def _pop_early(self) -> list[Row]:
        due = []
        while self._early:
            self.expected = min(self._early)
            due += self._pop_ready()
        return due

    def _pop_ready(self) -> list[Row]:
        due = []
        while (rivals := self._early.pop(self.expected, None)) is not None:
            self._deliver(rivals[-1])
            due += rivals
        return due

    def _deliver(self, row: Row) -> None:
        self._memory.keep(self.expected, np.array([row.fingerprint]))
        self.expected += 1


@final
class _Memory:
    """Fingerprints of the newest `MEMORY` rows since the last gap, and of late rows."""

    def __init__(self, first: int) -> None:
        self._first = self._end = first
        self._ring = array.array("q")
        self._late: dict[int, int] = {}

    def keep(self, number: int, fingerprints: np.ndarray) -> None:
        """Store the fingerprints of consecutive rows, int64 `[rows]`.

        The number of the first row must be higher than any number before.
        """
        if number != self._end:
            self._first = number
            self._ring = array.array("q")
        self._end = number + len(fingerprints)
        room = MEMORY - len(self._ring)
        self._ring.frombytes(fingerprints[:room].tobytes())
        if len(fingerprints) > room:
            newest = fingerprints[max(room, len(fingerprints) - MEMORY) :]
            places = np.arange(self._end - len(newest), self._end) - self._first
            np.frombuffer(self._ring, np.int64)[places % MEMORY] = newest

    def keep_late(self, number: int, fingerprint: int) -> None:
        """Store the fingerprint of a row with a number before the first."""
        self._late[number] = fingerprint

    def recall(self, number: int) -> int | None:
        """Return the fingerprint of the row with this number; None if unknown."""
        if self._end - len(self._ring) <= number < self._end:
            return self._ring[(number - self._first) % MEMORY]
        return self._late.get(number)

    def begins_soon_after(self, number: int) -> bool:
        """Return True if the first row has arrived and may have overtaken a row of this number."""
        return bool(self._ring) and self._first - WINDOW <= number < self._first
