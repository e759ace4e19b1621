"""Filter NaN and infinite values out of the records of a run."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from metriplex.errors import NonFiniteError
from metriplex.records import Scalar, Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metriplex.run.scalar_batch import ScalarBatch

logger = logging.getLogger("metriplex")

NonFinite: TypeAlias = Literal["error", "raise", "abort", "warn", "keep"]

LEARNING_RATE = "train/learning_rate"


@final
class FiniteFilter:
    """Remove non-finite values from records, log each tag once, and raise later if asked to.

    Thread-safe.
    """

    def __init__(self, name: str, nonfinite: NonFinite) -> None:
        self._name = name
        self._nonfinite = nonfinite
        self._lock = threading.Lock()
        self._rejected: dict[tuple[str, int | None], int] = {}
        self._first_rejected: str | None = None

    def __call__(self, batch: ScalarBatch) -> Sequence[Scalars]:
        """Return the records without rejected values; drop records that become empty."""
        if batch.clean:  # nearly always, and no record has to be made
            return batch.records
        return [checked for record in batch.records if (checked := self._check(record)).values]

    def raise_rejected(self) -> None:
        """Raise `NonFiniteError` if values were rejected since the last call, and it is due."""
        with self._lock:
            first, self._first_rejected = self._first_rejected, None
            rejected = self._describe_rejected()
            if first is not None:
                self._rejected.clear()
        if first is not None:
            raise NonFiniteError(
                f"run `{self._name}`: {first}; {rejected}: mend the training, or construct the "
                f'callback with `nonfinite="keep"` to log them or `"error"` to leave them out'
            )

    def report_rejected(self) -> None:
        """Log how many values were rejected, at the end of a run that doesn't raise."""
        with self._lock:
            if self._nonfinite == "error" and self._rejected:
                logger.error("run `%s`: %s", self._name, self._describe_rejected())

    def _describe_rejected(self) -> str:
        count = sum(self._rejected.values())
        tags = ", ".join(sorted({f"`{tag}`" for tag, _ in self._rejected}))
        return f"{count} value(s) that are NaN or infinite were rejected, of {tags}"

    def _check(self, record: Scalars) -> Scalars:
        if self._nonfinite == "keep":
            return record
        if _sum_is_finite(record.values.values()):  # nearly always, and much faster
            return record
        bad = [
            tag
            for tag, value in record.values.items()
            if isinstance(value, float) and not math.isfinite(value)
            if not (math.isnan(value) and may_be_nan(tag))
        ]
        if not bad:
            return record
        for tag in bad:
            self._reject(tag, record)
        kept = {tag: value for tag, value in record.values.items() if tag not in bad}
        return Scalars(record.step, kept, record.iteration, record.lane, record.wall_time)

    def _reject(self, tag: str, record: Scalars) -> None:
        key = (tag, record.lane)
        lane = "" if record.lane is None else f", lane {record.lane}"
        what = f"`{tag}` is {record.values[tag]} at step {record.step}{lane}"
        with self._lock:
            known = key in self._rejected
            self._rejected[key] = self._rejected.get(key, 0) + 1
            if self._first_rejected is None and self._nonfinite in ("raise", "abort") and not known:
                self._first_rejected = what
        if not known:
            level = logging.WARNING if self._nonfinite == "warn" else logging.ERROR
            logger.log(level, "run `%s`: %s; the value reaches no backend", self._name, what)


def may_be_nan(tag: str) -> bool:
    """Return True for a learning rate: unknown rates are logged as NaN, never rejected."""
    return tag == LEARNING_RATE or tag.startswith(f"{LEARNING_RATE}/")


def _sum_is_finite(values: Iterable[Scalar]) -> bool:
    """Return True only if all values are finite; False also if a sum of finite values overflows."""
    try:
        return math.isfinite(sum(values))
    except OverflowError:
        return False
