"""Build and join NumPy columns from single values."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from typing import Any, final

import numpy as np

_CHUNK = 4096


@final
class Column:
    """A growing column of Python values, stored in chunks of NumPy arrays."""

    __slots__ = ("_chunks", "_last")

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._last: list[Any] = []

    def append(self, value: Any) -> None:
        """Append a bool, an integer, a float or None."""
        self._last.append(value)
        if len(self._last) == _CHUNK:
            self._chunks.append(to_array(self._last))
            self._last = []

    def array(self) -> np.ndarray:
        """Return all values, in the dtype that `to_array` chooses."""
        return join([*self._chunks, to_array(self._last)])


def to_array(values: Sequence[Any]) -> np.ndarray:
    """Return bools, integers, floats and None as an array of the narrowest dtype that holds them.

    The dtype is bool if all values are bools, int64 if all are integers, else float64 with NaN for
    None. Arrays with integers beyond int64 have dtype object.
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
    """Concatenate arrays of `to_array`; mixed dtypes become float64, or object if one is object."""
    filled = [array for array in arrays if array.size] or [np.empty(0)]
    dtypes = {array.dtype for array in filled}
    if len(dtypes) == 1:
        return np.concatenate(filled)
    target = object if np.dtype(object) in dtypes else np.float64
    return np.concatenate([array.astype(target) for array in filled])


def scatter(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Return a column of `count` rows with each value in its row, and NaN in rows without a value.

    The column has the dtype of `values` if every row has a value; else float64 (or object).
    """
    if len(values) == count:
        column = np.empty(count, values.dtype)
    else:
        column = np.full(count, np.nan, object if values.dtype == object else np.float64)
    column[rows] = values
    return column


def occurrences(values: np.ndarray) -> np.ndarray:
    """Return how often each value occurred before: int64 `[n]`, 0 for the first occurrence."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])[: len(values)]
    counts = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    result = np.empty(len(values), np.int64)
    result[order] = counts
    return result
