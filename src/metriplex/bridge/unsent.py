"""Notice programs that may have ended with rows in their buffer, which are lost with the state."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from metriplex.bridge.rows import Rows

logger = logging.getLogger("metriplex")


@final
class Unsent:
    """The executions of a run's programs that have logged and not said that they ended.

    An execution sends its start and its first row at once, so it is known here. The receiver
    thread looks at rows; the thread that closes the run reports.

    Args:
        buffer: Rows that a program keeps on the device; 0 or 1 keep none.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._started: set[int] = set()
        self._newest: dict[tuple[int, int | None], int] = {}
        self._ended: dict[tuple[int, int | None], int] = {}

    def look(self, rows: Rows) -> None:
        """Note the newest record and the newest end of each execution and lane."""
        if self._buffer <= 1:
            return
        self._started.update(rows.execution[rows.of_kind("start")].tolist())
        for kind, numbers in (("record", self._newest), ("end", self._ended)):
            chosen = rows.of_kind(kind)
            for lane, execution, which in rows.by_stream(chosen[rows.sequence[chosen] >= 0]):
                key = execution, lane
                numbers[key] = max(numbers.get(key, 0), int(rows.sequence[which].max()))

    def report(self, name: str) -> None:
        """Log how many programs of run `name` may have kept rows, and how to get them."""
        lacking = self._started - {execution for execution, _ in self._ended}
        lacking |= {
            execution
            for (execution, lane), number in self._newest.items()
            if self._ended.get((execution, lane), -1) < number
        }
        if lacking:
            logger.error(
                "run `%s`: %d program(s) with `buffer=%d` ended without `on_training_end`: up to "
                "%d record(s) of each lane stayed on the device and are lost; call `state = "
                "metrics.on_training_end(state)` after the loop, also outside of compiled code",
                name,
                len(lacking),
                self._buffer,
                self._buffer - 1,
            )
