"""Plain lines for pipes, files, continuous integration and notebooks."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, TextIO, final

from metriplex_console.board import Board, TagValues
from metriplex_console.formatting import (
    UNKNOWN,
    format_duration,
    format_hparams,
    format_plain,
    is_learning_rate,
    key_values,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from metriplex import RunInfo, Scalar, Scalars

_WORDS = frozenset({"run", "step", "iteration", "lanes"})
"""Names at the start of a line, before its tags."""


@final
class PlainView:
    """Print a line of `tag=value` at most every `every_secs`; the last state is always printed.

    A line holds the newest value of every tag that was logged since the previous line, so that no
    tag is skipped, however seldom it is logged. Lines begin with the run's name if `others`, the
    names of the other open runs of this process, returns any, and with its directory if one of them
    has the same name.
    """

    def __init__(
        self, run: RunInfo, file: TextIO, every_secs: float, others: Callable[[], Collection[str]]
    ) -> None:
        self._run = run
        self._file = file
        self._every_secs = every_secs
        self._others = others
        self._board = Board(charted=None)
        self._changed: set[str] = set()
        self._step: int | None = None
        self._printed_at = -math.inf
        self._write(key_values(self._identity()))

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Print the hyper-parameters as one line."""
        self._write(f"{self._label()}hparams {format_hparams(hparams)}")

    def update(self, records: Sequence[Scalars]) -> None:
        """Add records, and print the lines that are due."""
        for record in records:
            if record.step != self._step and self._is_due():
                self._write_newest()
            self._step = record.step
            self._changed.update(record.values)
            self._board.update([record])
        self.flush()

    def flush(self) -> None:
        """Print the line that has waited for `every_secs`, if there is one."""
        if self._is_due():
            self._write_newest()

    def close(self, status: str) -> None:
        """Print the remaining values and the status of the run."""
        if self._changed:
            self._write_newest()
        facts = [("status", status)]
        if self._step is not None:
            facts.append(("step", str(self._step)))
        elapsed = format_duration(time.time() - self._run.start_time)
        self._write(self._label() + key_values([*facts, ("elapsed", elapsed)]))

    def _is_due(self) -> bool:
        return bool(self._changed) and time.monotonic() - self._printed_at >= self._every_secs

    def _write_newest(self) -> None:
        snapshot = self._board.snapshot()
        facts = [("step", str(self._step))]
        if snapshot.iteration is not None:
            facts.append(("iteration", str(snapshot.iteration)))
        if snapshot.lanes:
            facts.append(("lanes", str(snapshot.lanes)))
        tags = [(v.tag, _format(v)) for v in snapshot.tags if v.tag in self._changed]
        self._write(f"{self._label()}{key_values(facts)} {key_values(tags, reserved=_WORDS)}")
        self._changed.clear()
        self._printed_at = time.monotonic()

    def _label(self) -> str:
        """Return a prefix that tells the run from the other open runs of this process."""
        others = self._others()
        facts = self._identity()[: 2 if self._run.name in others else 1]
        return f"{key_values(facts)} " if others else ""

    def _identity(self) -> list[tuple[str, str]]:
        return [("run", self._run.name), ("directory", str(self._run.directory))]

    def _write(self, line: str) -> None:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        line = line.encode(encoding, "backslashreplace").decode(encoding)
        self._file.write(f"{line}\n")
        self._file.flush()


def _format(values: TagValues) -> str:
    """Format a value, or `mean+-std` over lanes."""
    summary = values.summary()
    value = summary.value
    if isinstance(value, float) and math.isnan(value) and is_learning_rate(values.tag):
        return UNKNOWN
    text = format_plain(value)
    return text if summary.std is None else f"{text}+-{format_plain(summary.std)}"
