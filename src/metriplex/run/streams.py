"""Keep the rows of each lane and of each execution of a program apart."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from metriplex.bridge.rows import Rows, optional
from metriplex.run.sequencer import WINDOW, Sequencer

if TYPE_CHECKING:
    from collections.abc import Collection

    from metriplex.bridge.rows import Row

    Key: TypeAlias = tuple[int | None, int]

MOST = 64
"""Executions of one lane whose rows are told apart; beyond it the oldest is forgotten."""


@final
class Streams:
    """Order the rows of each lane by execution and number. Only the receiver thread pushes rows.

    Args:
        resumed: True if the run was resumed, so that states may continue the numbers of an earlier
            process.
    """

    def __init__(self, *, resumed: bool) -> None:
        self._resumed = resumed
        self._lanes: dict[int | None, OrderedDict[int, Sequencer]] = {}

    @property
    def lanes(self) -> Collection[int | None]:
        """The lanes that have logged, None for records without a lane."""
        return self._lanes.keys()

    def push(self, rows: Rows) -> Rows:
        """Add rows; return those that can be delivered: not the early ones and the duplicates."""
        due_at: dict[int, list[Row]] = {}
        for lane, execution, positions in rows.by_stream((rows.sequence >= 0).nonzero()[0]):
            numbers = rows.sequence[positions]
            sequencer, released = self._sequencer(lane, execution, numbers)
            if not sequencer.push_next(numbers, rows.fingerprint[positions]):
                for position, row in zip(positions.tolist(), rows.take(positions), strict=True):
                    due = sequencer.push(row)
                    if len(due) != 1 or due[0] is not row:
                        due_at[position] = due
            if released:
                first = int(positions[0])
                due_at[first] = released + due_at.get(first, [rows[first]])
        loose = rows.lane[rows.sequence < 0]
        for lane in optional(np.unique(loose)) if len(loose) else ():
            self._lanes.setdefault(lane, OrderedDict())
        if not due_at:  # the common case
            return rows
        if not any(due_at.values()):  # nothing but duplicates
            return rows.take(np.delete(np.arange(len(rows)), list(due_at)))
        due_rows = (due_at.get(position, [row]) for position, row in enumerate(rows))
        return Rows.of(list(itertools.chain.from_iterable(due_rows)))

    def _sequencer(
        self, lane: int | None, execution: int, numbers: np.ndarray
    ) -> tuple[Sequencer, list[Row]]:
        """Return the sequencer of a stream, and the early rows of a stream that it displaces."""
        executions = self._lanes.setdefault(lane, OrderedDict())
        released: list[Row] = []
        if execution not in executions:
            executions[execution] = Sequencer(self._first_number(execution, numbers))
            if len(executions) > MOST:
                _, oldest = executions.popitem(last=False)
                released = oldest.release()
        return executions[execution], released

    def release(self) -> Rows:
        """Return the early rows, across gaps, and forget all fingerprints: programs have ended."""
        sequencers = [one for lane in self._lanes.values() for one in lane.values()]
        return Rows.of([row for one in sequencers for row in one.release()])

    def _first_number(self, execution: int, numbers: np.ndarray) -> int:
        """Return the number of an execution's first row in a lane; `numbers` came together."""
        # Rows from before the state differed between lanes count for all of them.
        common = self._lanes.get(None, {}).get(execution)
        if common is not None:
            return common.expected
        # A state of a checkpoint continues its numbers; earlier rows never come. If an earlier row
        # is still on its way after all, it is late, not lost.
        least = int(numbers.min())
        return least if self._resumed or least > WINDOW else 0
