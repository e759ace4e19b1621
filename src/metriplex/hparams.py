"""Hyper-parameters, flattened to what every backend can store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metriplex.errors import LoggingError

if TYPE_CHECKING:
    from metriplex.records import Scalar


def flatten_hparams(hparams: Mapping[str, Any]) -> dict[str, Scalar | str]:
    """Joins nested names by `/`, and turns what is no number or string into its text.

    Args:
        hparams: Names to values: mappings and dataclasses are descended into; numbers (NumPy's and
            jax's too, of size one), bools and strings are kept; everything else (None, lists,
            functions, ...) becomes a string.

    Raises:
        LoggingError: A name is not a string, or two paths make the same name.
    """
    flat: dict[str, Scalar | str] = {}
    for name, value in _walk(hparams, ""):
        if name in flat:
            raise LoggingError(f"two hyper-parameters are named `{name}`: rename one")
        flat[name] = value
    return flat


def _walk(value: Any, name: str) -> Iterator[tuple[str, Scalar | str]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        yield name, _plain(value)
        return
    for key, item in value.items():
        if not isinstance(key, str) or not key:
            raise LoggingError(
                f"a hyper-parameter's name must be a string that is not empty; got {key!r}"
                + (f" under `{name}`" if name else "")
            )
        yield from _walk(item, f"{name}/{key}" if name else key)


def _plain(value: Any) -> Scalar | str:
    if isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "dtype") and getattr(value, "size", 0) == 1:
        item = np.asarray(value).item()
        return item if isinstance(item, bool | int | float | str) else str(item)
    return getattr(value, "__qualname__", None) or str(value)
