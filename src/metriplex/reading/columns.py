"""Values that come one by one, kept as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from typing import Any, final

import numpy as np

_CHUNK = 4096


@final
class Column:
    """Takes Python values, a few bytes each."""

    __slots__ = ("_chunks", "_last")

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._last: list[Any] = []

    def append(self, value: Any) -> None:
        """Takes a bool, an integer, a float or None."""
        self._last.append(value)
        if len(self._last) == _CHUNK:
            self._chunks.append(to_array(self._last))
            self._last = []

    def array(self) -> np.ndarray:
        """Everything that was taken, as `to_array` has it."""
        return join([*self._chunks, to_array(self._last)])


def to_array(values: Sequence[Any]) -> np.ndarray:
    """The narrowest array that holds the values.

    Args:
        values: Bools, integers, floats, or None for what is missing.

    Returns:
        bool, int64 or float64 `[len(values)]` if all are bools, integers or else numbers; None is
        NaN, which makes it float64. Integers beyond int64 are kept as objects.
    """
    kinds = set(map(type, values))
    if kinds == {bool}:
        return np.array(values, np.bool_)
    try:
        if kinds == {int}:
            return np.array(values, np.int64)
    except OverflowError:
        return np.array(values, object)
    try:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    except OverflowError:
        return np.array(values, object)


def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates what `to_array` gave; what differs in dtype becomes float64, or objects."""
    filled = [array for array in arrays if array.size] or [np.empty(0)]
    dtypes = {array.dtype for array in filled}
    if len(dtypes) == 1:
        return np.concatenate(filled)
    target = object if np.dtype(object) in dtypes else np.float64
    return np.concatenate([array.astype(target) for array in filled])


def scatter(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Values in their rows; NaN, and so float64, where a row has none.

    Args:
        values: As `to_array` gave them, `[n]`.
        rows: int64 `[n]`, each row at most once.
        count: Number of rows.
    """
    if len(values) == count:
        column = np.empty(count, values.dtype)
    else:
        column = np.full(count, np.nan, object if values.dtype == object else np.float64)
    column[rows] = values
    return column


def occurrences(values: np.ndarray) -> np.ndarray:
    """How often each value came before: int64 `[n]`, 0 for the first time."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])[: len(values)]
    counts = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    result = np.empty(len(values), np.int64)
    result[order] = counts
    return result
