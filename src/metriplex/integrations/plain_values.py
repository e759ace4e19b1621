"""Reduce a value of any Python type to what a run can log: a number, a text, or an array."""

from __future__ import annotations

import decimal
import numbers
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from metriplex.records import Scalar

Plain: TypeAlias = "Scalar | str | np.ndarray | None"

_INTEGERS = range(-(2**63), 2**63)
"""The integers that a run can log."""


def plain_value(value: Any) -> Plain:
    """Return a value as a number or a text of exactly that type, or as an array of real numbers.

    Numbers are bools, signed integers of 64 bits, floats, and their arrays of size one (of NumPy,
    jax or torch); larger integers, fractions and decimals become floats. None, and values that
    are masked, are None. All other values become text.

    Raises:
        Exception: The value has no text, since its own `__str__` fails.
    """
    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _of_array(value)
    if isinstance(value, numbers.Real | decimal.Decimal):
        return _number(value)
    return str(value)


def as_array(value: Any) -> np.ndarray:
    """Return a number, or an array of NumPy, jax or torch, as a NumPy array.

    A tensor of a type that NumPy lacks (bfloat16, float8, sparse ones) becomes float32.
    """
    if not hasattr(value, "detach"):
        return np.asarray(value)
    try:
        return value.numpy(force=True)
    except TypeError:
        return value.detach().to_dense().float().numpy(force=True)


def _number(value: Any) -> Scalar | str:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and (whole := int.__int__(value)) in _INTEGERS:
        return whole
    try:
        return float(value)
    except (OverflowError, ValueError):  # more than a float can hold; a signaling NaN
        return str(value)


def _of_array(value: Any) -> Plain:
    if isinstance(value, np.ma.MaskedArray):
        value = value.compressed()
        if value.size == 0:
            return None
    try:
        array = as_array(value)
    except Exception:  # noqa: BLE001 - tensors without data, keys of jax, and what else looks so
        return str(value)
    if array.size != 1:
        return array if _is_real(array.dtype) else str(value)
    item = array.reshape(())[()]
    if _is_real(array.dtype):
        return _number(item.item() if hasattr(item, "item") else item)
    has_item = array.dtype == object and not hasattr(item, "dtype")
    return plain_value(item) if has_item else str(value if array.dtype == object else item)


def _is_real(dtype: np.dtype) -> bool:
    """Return True for types of real numbers, also those of `ml_dtypes`."""
    if dtype.kind in "biuf":
        return True
    return dtype.kind == "V" and dtype.names is None and np.can_cast(dtype, np.float64)
