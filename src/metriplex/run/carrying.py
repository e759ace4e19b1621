"""Notice a program that doesn't carry its state: all of its records stand on one step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex.bridge.rows import Row

logger = logging.getLogger("metriplex")

_REPEATS = 3


@final
class CarryCheck:
    """Warn once if the rows of one execution have one number though their values differ.

    It looks at the first lane, until that lane has logged a few iterations. Not thread-safe.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = False
        self._first: Row | None = None
        self._contents: set[int] = set()

    def look(self, rows: Sequence[Row]) -> None:
        """Take rows as they come from the device."""
        if self._done:
            return
        for row in rows:
            if row.kind == "record" and row.sequence is not None and row.iteration is not None:
                self._add(row)

    def _add(self, row: Row) -> None:
        first = self._first
        if first is None:
            first = self._first = row
        if self._done or row.lane != first.lane:
            return
        if (row.execution, row.sequence) != (first.execution, first.sequence):
            self._first, self._contents = row, {row.fingerprint}
            self._done = row.sequence is not None and row.sequence >= _REPEATS
            return
        self._contents.add(row.fingerprint)
        if len(self._contents) == _REPEATS:
            self._done = True
            logger.warning(
                "run `%s`: %d records stand on step %d, since the program doesn't carry its state: "
                "pass the state that `on_step` and `on_iteration` return to the next call of "
                "theirs, in a `scan` as a part of the carry",
                *(self._name, _REPEATS, row.step),
            )
