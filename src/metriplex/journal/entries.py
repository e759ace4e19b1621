"""What a journal holds beside the records that backends get."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from typing import TypeAlias, final

from metriplex.records import (
    Artifact,
    Histogram,
    Image,
    Media,
    Scalar,
    Scalars,
    Text,
    Video,
)


@final
@dataclass(frozen=True, slots=True)
class Hparams:
    """Hyper-parameters of the run.

    Attributes:
        values: Flat: nested names are joined by `/`.
    """

    values: Mapping[str, Scalar | str]


@final
@dataclass(frozen=True, slots=True)
class Resume:
    """The run was continued: everything before this that has `step` or a later one is superseded.

    Attributes:
        step: The first environment step that is logged again.
    """

    step: int


@final
@dataclass(frozen=True, slots=True)
class Close:
    """The run was closed.

    Attributes:
        status: `finished`, `failed` or `interrupted`.
    """

    status: str


Record: TypeAlias = Scalars | Media | Hparams | Resume | Close
"""What one line of a journal holds."""

STEPPED = (Scalars, Text, Video, Image, Histogram, Artifact)
"""The records that have a step, and so can be superseded."""


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a journal.

    Attributes:
        number: From 0 in the order in which the run logged them.
        record: What was logged.
    """

    number: int
    record: Record
