"""Keep the rows of each lane and of each execution of a program apart."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias, final

from metriplex.run.sequencer import WINDOW, Sequencer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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

    def push(self, rows: Sequence[Row]) -> list[Row]:
        """Add rows; return those that can be delivered: not the early ones and the duplicates."""
        due: list[Row] = []
        for row in rows:
            executions = self._lanes.setdefault(row.lane, OrderedDict())
            sequencer = executions.get(row.execution)
            if sequencer is None and row.sequence is not None:
                sequencer = Sequencer(self._first_number(row, rows))
                executions[row.execution] = sequencer
                if len(executions) > MOST:
                    _, oldest = executions.popitem(last=False)
                    due += oldest.release()
            due += [row] if sequencer is None else sequencer.push(row)
        return due

    def release(self) -> list[Row]:
        """Return the early rows, across gaps, and forget all fingerprints: programs have ended."""
        sequencers = [one for lane in self._lanes.values() for one in lane.values()]
        return [row for one in sequencers for row in one.release()]

    def _first_number(self, new: Row, rows: Sequence[Row]) -> int:
        """Return the number of an execution's first row in a lane; `rows` came with it."""
        # Rows from before the state differed between lanes count for all of them.
        common = self._lanes.get(None, {}).get(new.execution)
        if common is not None:
            return common.expected
        least = min(
            row.sequence
            for row in rows
            if (row.lane, row.execution) == (new.lane, new.execution) and row.sequence is not None
        )
        # A state of a checkpoint continues its numbers; earlier rows never come. If an earlier row
        # is still on its way after all, it is late, not lost.
        return least if self._resumed or least > WINDOW else 0
