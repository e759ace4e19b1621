"""Flatten hyper-parameters to scalars and strings, which every backend can store."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metriplex.errors import LoggingError

if TYPE_CHECKING:
    from metriplex.records import Scalar


_LONG = 16
"""Maximal length of a vector that is stored as text; larger arrays are stored as their shape."""

MASK = "***"
"""Replacement for a secret."""

_SECRET = re.compile("key|token|password|passwd|secret|credential")
_NO_SECRET = re.compile(
    r"(?:^|_)(?:prng|rng|random|jax|obs|observation|action)_?keys?(?:_|$)|tokeni[sz]|monkey|keyboard"
)


def is_secret(name: str) -> bool:
    """Return True if the name of a hyper-parameter marks its value as a secret.

    Names that match `*key*`, `*token*`, `*password*`, `*passwd*`, `*secret*` or `*credential*`, in
    upper or lower case, mark secrets; `prng_key`, `obs_key`, `tokenizer` and the like don't.
    """
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return _SECRET.search(_NO_SECRET.sub("", plain)) is not None


def flatten_hparams(hparams: Any, *, mask_secrets: bool = True) -> dict[str, Scalar | str]:
    """Return hyper-parameters as a flat mapping, with nested names joined by `/`.

    Numbers (also NumPy and jax arrays of size one), bools and strings keep their values. Vectors of
    up to 16 elements become text; other arrays become their dtype and shape; all other values
    (None, functions, ...) become text.

    Args:
        hparams: Names and values, in any container that `named_children` accepts, nested to any
            depth, also in lists.
        mask_secrets: Replace text by `***` if `is_secret` is True for any part of its name.
            Numbers, bools, arrays and None are kept, since `max_tokens=512` and
            `key=jax.random.key(0)` are no secrets.

    Returns:
        Flat name to value.

    Raises:
        LoggingError: A name is not a string, or two paths make the same name.
    """
    flat: dict[str, Scalar | str] = {}
    for name, value in _walk(hparams, "", mask=mask_secrets):
        if name in flat:
            raise LoggingError(f"two hyper-parameters are named `{name}`: rename one")
        flat[name] = value
    return flat


def named_children(value: Any) -> Mapping[Any, Any] | None:
    """Return the named values of a container as a mapping; None if `value` is no container.

    Containers are mappings (also of flax, ml_collections and OmegaConf), dataclasses (also equinox
    modules and flax structs), instances of attrs classes, named tuples and `argparse.Namespace`.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, argparse.Namespace):
        return vars(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if hasattr(value, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}
    if callable(getattr(value, "items", None)) and callable(getattr(value, "keys", None)):
        return dict(value.items())
    return None


def _walk(
    value: Any, name: str, *, mask: bool, secret: bool = False
) -> Iterator[tuple[str, Scalar | str]]:
    children = named_children(value)
    if children is None and isinstance(value, list | tuple) and any(map(_is_record, value)):
        children = {str(index): item for index, item in enumerate(value)}
    if children is None:
        yield name, MASK if secret and _is_text(value) else _plain(value)
        return
    for key in children:
        if not isinstance(key, str) or not key:
            raise LoggingError(
                f"a hyper-parameter's name must be a string that is not empty; got {key!r}"
                + (f" under `{name}`" if name else "")
            )
        hidden = secret or (mask and is_secret(key))
        try:
            item = children[key]
        except Exception as error:  # noqa: BLE001 - a configuration may lack values
            item = f"can't be read: {type(error).__name__}"
        yield from _walk(item, f"{name}/{key}" if name else key, mask=mask, secret=hidden)


def _is_text(value: Any) -> bool:
    """Return True for text, or a collection with text: not a number, an array or a function."""
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_is_text, value))
    if isinstance(value, bool | int | float) or hasattr(value, "dtype") or callable(value):
        return False
    return bool(value)


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _plain(value: Any) -> Scalar | str:
    if isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        is_key = str(value.dtype).startswith("key<")  # a PRNG key of jax is no number
        if not is_key and math.prod(value.shape) == 1:
            item = np.asarray(value).item()
            return item if isinstance(item, bool | int | float | str) else str(item)
        if is_key or len(value.shape) != 1 or not 0 < len(value) <= _LONG:
            return f"{value.dtype}{list(value.shape)}"
    return getattr(value, "__qualname__", None) or str(value)


def check_hparams(hparams: Any) -> Any:
    """Return `hparams`, or `{}` for None; raise a LoggingError if it has no named children."""
    if named_children(hparams) is not None:
        return hparams
    if hparams is None:
        return {}
    raise LoggingError(
        f"`hparams` must have names for its values; got {hparams!r} of type "
        f"`{type(hparams).__name__}`: pass a dictionary, a dataclass or the like"
    )
