"""Define the records that only a journal holds, and the entries of a journal."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from typing import TypeAlias, final

from metriplex.records import Artifact, Histogram, Image, Media, Scalar, Scalars, Text, Video


@final
@dataclass(frozen=True, slots=True)
class Hparams:
    """Hyper-parameters of the run, by name; the parts of nested names are joined by `/`."""

    values: Mapping[str, Scalar | str]


@final
@dataclass(frozen=True, slots=True)
class Resume:
    """The run was resumed at `step`: earlier entries with it or a later one are superseded."""

    step: int


@final
@dataclass(frozen=True, slots=True)
class Close:
    """The run was closed; `status` is `finished`, `failed` or `interrupted`."""

    status: str


Record: TypeAlias = Scalars | Media | Hparams | Resume | Close
"""The record of one line of a journal."""

STEPPED = (Scalars, Text, Video, Image, Histogram, Artifact)
"""The records that have a step, so a resume can supersede them."""


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a journal; `number` is its position in the run's order of logging, from 0."""

    number: int
    record: Record


@final
class Numbers:
    """The numbers that entries have come with, each accepted once, also out of order.

    Attributes:
        expected: The number after the greatest one so far.
    """

    def __init__(self, start: int) -> None:
        self.expected = start
        self._missing: list[range] = []

    def take(self, number: int) -> bool:
        """Return True if the number is at least `start` and comes for the first time."""
        if number >= self.expected:
            if number > self.expected:
                self._missing.append(range(self.expected, number))
            self.expected = number + 1
            return True
        for index, gap in enumerate(self._missing):
            if number in gap:
                parts = range(gap.start, number), range(number + 1, gap.stop)
                self._missing[index : index + 1] = [part for part in parts if part]
                return True
        return False

    def missing(self, end: int) -> list[range]:
        """Return the numbers below `end` that have not come."""
        last = range(self.expected, end)
        return [*self._missing, *([last] if last else [])]
