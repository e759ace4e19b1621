"""Define the rows that the receiver decodes."""

from __future__ import annotations

import dataclasses
from typing import Any, final


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One decoded row.

    Attributes:
        kind: `"start"`, `"record"`, `"video"` or `"end"`.
        sequence: Position in the lane's stream, from 0; None for a row without an order.
        fingerprint: Equal for two copies of one row.
        step: Environment steps taken so far.
        iteration: The training iteration; None outside one.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        values: Tag to value.
        wall_time: Seconds since the Unix epoch at which the row reached the host.
        lanes: Number of lanes of the row's program; 0 if it is unknown.
        execution: Number of the execution of a program that made the row's state.
    """

    kind: str
    sequence: int | None
    fingerprint: int
    step: int
    iteration: int | None
    lane: int | None
    values: dict[str, Any]
    wall_time: float
    lanes: int = 0
    execution: int = 0
