"""The scalar records of a batch of rows, made when they are first read."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, final

from metriplex.bridge.rows import optional
from metriplex.delivery.lazy import Lazy
from metriplex.records import Scalars
from metriplex.run.columns import Columns
from metriplex.run.rates import STEPS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from metriplex.bridge.rows import Rows


@final
@dataclasses.dataclass(frozen=True, slots=True)
class ScalarBatch:
    """Records that a run logs together.

    Attributes:
        records: The records, in order.
        newest_step: The greatest step of them, 0 without records.
        clean: True if each record is known to have values, of which `FiniteFilter` rejects none.
        columns: Returns the records as columns.
    """

    records: Sequence[Scalars]
    newest_step: int
    clean: bool
    columns: Callable[[], Columns]

    @classmethod
    def of(cls, records: Sequence[Scalars]) -> ScalarBatch:
        """Return a batch of records that exist."""
        newest_step = max((record.step for record in records), default=0)
        return cls(records, newest_step, clean=False, columns=lambda: Columns.of(records))

    @classmethod
    def of_rows(
        cls, rows: Rows, rates: np.ndarray, may_be_nan: Callable[[str], bool]
    ) -> ScalarBatch:
        """Return the records of rows, and of their steps a second, as for `Rates.push`.

        Args:
            rows: Rows of any kind; those that are no records are ignored.
            rates: float64 `[rows]`, NaN for none.
            may_be_nan: Returns True for a tag whose value may be NaN.
        """
        chosen = rows.of_kind("record")
        if len(chosen) < len(rows):
            rows, rates = rows.take(chosen), rates[chosen]
        return cls(
            Lazy(len(rows), lambda: _make(rows, rates)),
            int(rows.step.max(initial=0)),
            rows.are_clean(may_be_nan),
            lambda: Columns.of_rows(rows),
        )


def _make(rows: Rows, rates: np.ndarray) -> list[Scalars]:
    columns = zip(
        rows.step.tolist(),
        rows.values(),
        optional(rows.iteration),
        optional(rows.lane),
        rows.wall_time.tolist(),
        rates.tolist(),
        strict=True,
    )
    return [
        Scalars(
            step,
            values if rate != rate else {**values, STEPS_PER_SECOND: rate},
            *others,
        )
        for step, values, *others, rate in columns
    ]
