"""Notice a program that doesn't carry its state: all of its records stand on one step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from metriplex.bridge.rows import Rows

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
        self._lane: int | None = None
        self._stands: tuple[int, int] | None = None
        self._contents: set[int] = set()

    def look(self, rows: Rows) -> None:
        """Take rows as they come from the device."""
        if self._done:
            return
        chosen = rows.of_kind("record")
        chosen = chosen[(rows.sequence[chosen] >= 0) & (rows.iteration[chosen] >= 0)]
        if not len(chosen):
            return
        if self._lane is None:
            self._lane = int(rows.lane[chosen[0]])
        chosen = chosen[rows.lane[chosen] == self._lane]
        columns = (rows.execution, rows.sequence, rows.fingerprint, rows.step)
        for place in zip(*(column[chosen].tolist() for column in columns), strict=True):
            self._add(*place)

    def _add(self, execution: int, sequence: int, fingerprint: int, step: int) -> None:
        if self._done:
            return
        if (execution, sequence) != self._stands:
            again = self._stands is not None
            self._stands, self._contents = (execution, sequence), {fingerprint}
            self._done = again and sequence >= _REPEATS
            return
        self._contents.add(fingerprint)
        if len(self._contents) == _REPEATS:
            self._done = True
            logger.warning(
                "run `%s`: %d records stand on step %d, since the program doesn't carry its state: "
                "pass the state that `on_step` and `on_iteration` return to the next call of "
                "theirs, in a `scan` as a part of the carry",
                *(self._name, _REPEATS, step),
            )
