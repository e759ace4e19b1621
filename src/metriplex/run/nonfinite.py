"""Keeping values that are NaN or infinite away from backends."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from metriplex.errors import NonFiniteError
from metriplex.records import Scalar, Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger("metriplex")

NonFinite: TypeAlias = Literal["error", "abort", "warn", "keep"]

LEARNING_RATE = "train/learning_rate"


@final
class FiniteFilter:
    """Takes values out of the records of a run, tells of them at once, and raises later.

    Args:
        name: The run's name.
        nonfinite: What happens to them, as for `MetricsCallback`.
    """

    def __init__(self, name: str, nonfinite: NonFinite) -> None:
        self._name = name
        self._nonfinite = nonfinite
        self._lock = threading.Lock()
        self._rejected: dict[tuple[str, int | None], int] = {}
        self._first_rejected: str | None = None

    def __call__(self, records: Sequence[Scalars]) -> list[Scalars]:
        """The records without what is rejected; one of which nothing is left is left out."""
        return [checked for record in records if (checked := self._check(record)).values]

    def raise_rejected(self) -> None:
        """Raises `NonFiniteError` if values were rejected since the last call."""
        with self._lock:
            first, self._first_rejected = self._first_rejected, None
            count = sum(self._rejected.values())
            tags = ", ".join(sorted({f"`{tag}`" for tag, _ in self._rejected}))
            if first is not None:
                self._rejected.clear()
        if first is not None:
            raise NonFiniteError(
                f"run `{self._name}`: {first}; {count} value(s) that are NaN or infinite were "
                f"rejected, of {tags}: mend the training, or construct the callback with "
                f'`nonfinite="keep"` to log them or `"warn"` to leave them out'
            )

    def _check(self, record: Scalars) -> Scalars:
        if self._nonfinite == "keep":
            return record
        if _sum_is_finite(record.values.values()):  # nearly always, and told much sooner
            return record
        bad = [
            tag
            for tag, value in record.values.items()
            if isinstance(value, float) and not math.isfinite(value)
            if not _is_unknown_rate(tag, value)
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
            if self._first_rejected is None and self._nonfinite != "warn" and not known:
                self._first_rejected = what
        if not known:
            level = logging.WARNING if self._nonfinite == "warn" else logging.ERROR
            logger.log(level, "run `%s`: %s; the value reaches no backend", self._name, what)


def _is_unknown_rate(tag: str, value: Scalar) -> bool:
    """NaN is how an unknown learning rate is logged, and alone is never rejected."""
    is_rate = tag == LEARNING_RATE or tag.startswith(f"{LEARNING_RATE}/")
    return is_rate and math.isnan(value)


def _sum_is_finite(values: Iterable[Scalar]) -> bool:
    """Whether all are finite, for certain; of finite ones too the sum may be none."""
    try:
        return math.isfinite(sum(values))
    except OverflowError:
        return False
