"""Flatten hyper-parameters to scalars and strings, which every backend can store."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import math
import os
import re
import types
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

_MOST = 500
"""Maximal length of the text of a value that has no plain form."""

_SECRET = re.compile(
    r"key|token|passw(?:or)?d|passphrase|secret|credential|bearer|cookie|authorization"
    r"|(?:^|_)(?:auth|pwd|jwt)(?:_|$)"
)
_SECRET_IN_TEXT = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)"  # `user:password@host`
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(r"(?P<name>[\w-]+)=(?P<value>[^\s&;,]+)")
_NO_SECRET = re.compile(
    r"(?:^|_)(?:prng|rng|random|jax|obs|observation|action)_?keys?(?:_|$)|tokeni[sz]|monkey|keyboard"
)


def is_secret(name: str) -> bool:
    """Return True if the name of a hyper-parameter marks its value as a secret.

    Names with `key`, `token`, `password`, `passwd`, `passphrase`, `secret`, `credential`, `bearer`,
    `cookie` or `authorization` in them, or with `auth`, `pwd` or `jwt` as a word, mark secrets;
    `prng_key`, `obs_key`, `tokenizer` and the like don't.
    """
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return _SECRET.search(_NO_SECRET.sub("", plain)) is not None


def mask_text(text: str) -> str:
    """Return text with `***` for secrets in it: in `://user:password@`, `Bearer ...`, `KEY=...`."""
    text = _SECRET_IN_TEXT.sub(lambda found: f"{found['before'] or found['scheme']}{MASK}", text)
    return _ASSIGNMENT.sub(_mask_assignment, text)


def _mask_assignment(found: re.Match[str]) -> str:
    value = MASK if is_secret(found["name"]) else mask_text(found["value"])
    return f"{found['name']}={value}"


def flatten_hparams(hparams: Any, *, mask_secrets: bool = True) -> dict[str, Scalar | str]:
    """Return hyper-parameters as a flat mapping, with nested names joined by `/`.

    Numbers (also NumPy and jax arrays of size one), bools and strings keep their values, as exactly
    these types: of an enum's member that is also one of them, its value. Vectors of up to 16
    elements become text; other arrays become their dtype and shape; all other values (None,
    functions, ...) become text, shortened to 500 characters. Any object can be flattened.

    Args:
        hparams: Names and values, in any container that `named_children` accepts, nested to any
            depth, also in lists. A second value of one name gets the name `NAME_2`.
        mask_secrets: Replace text by `***` if `is_secret` is True for any part of its name, and
            secrets within a text as `mask_text` does. Numbers, bools, arrays of numbers and None
            are kept, since `max_tokens=512` and `key=jax.random.key(0)` are no secrets.

    Returns:
        Flat name to value.
    """
    flat: dict[str, Scalar | str] = {}
    for name, value in _walk(hparams, "", mask=mask_secrets):
        free, number = name or "hparams", 1
        while free in flat:
            number += 1
            free = f"{name}_{number}"
        flat[free] = mask_text(value) if mask_secrets and isinstance(value, str) else value
    return flat


def named_children(value: Any) -> Mapping[Any, Any] | None:
    """Return the named values of a container as a mapping; None if `value` is no container.

    Containers are mappings (also of flax, ml_collections and OmegaConf), dataclasses (also equinox
    modules and flax structs), instances of attrs classes and pydantic models, named tuples,
    `argparse.Namespace` and `types.SimpleNamespace`.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if isinstance(getattr(type(value), "model_fields", None), Mapping):  # of pydantic
        return {name: getattr(value, name, None) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        return vars(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if hasattr(value, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}
    if callable(getattr(value, "items", None)) and callable(getattr(value, "keys", None)):
        return dict(value.items())
    return None


def _walk(
    value: Any, name: str, *, mask: bool, secret: bool = False, above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Scalar | str]]:
    children = _children(value)
    if children is None or id(value) in above:  # a container may hold itself
        plain = "..." if children is not None else _plain(value)
        yield name, MASK if secret and plain != "" and _is_text(value) else plain
        return
    for key in children:
        part = str(_plain(key))
        hidden = secret or (mask and is_secret(part))
        try:
            item = children[key]
        except Exception as error:  # noqa: BLE001 - a configuration may lack values
            item = f"can't be read: {type(error).__name__}"
        inner = f"{name}/{part}" if name else part
        yield from _walk(item, inner, mask=mask, secret=hidden, above=(*above, id(value)))


def _children(value: Any) -> Mapping[Any, Any] | None:
    """Return the named values of a container, and of a list that holds one; else None."""
    try:
        children = named_children(value)
        if children is not None or not isinstance(value, list | tuple):
            return children
        if any(named_children(item) is not None for item in value):
            return {str(index): item for index, item in enumerate(value)}
    except Exception:  # noqa: BLE001, S110 - any object may be broken in any way
        pass
    return None


def _is_text(value: Any) -> bool:
    """Return True for text, or a collection with text: not a number, an array or a function."""
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_is_text, value))
    if hasattr(value, "dtype"):
        return getattr(value.dtype, "kind", "") in "USO"
    if isinstance(value, enum.Enum):
        return _is_text(value.value)
    return not isinstance(value, bool | int | float | None) and not callable(value)


def _plain(value: Any) -> Scalar | str:
    """Return a value of exactly one of the types that every backend can store."""
    if isinstance(value, bool):
        return value
    # A subclass may change any method: those of the type itself are called.
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return _text(value)
    except Exception:  # noqa: BLE001 - any object may be broken in any way
        return f"<{type(value).__name__}>"


def _text(value: Any) -> Scalar | str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        is_key = str(value.dtype).startswith("key<")  # a PRNG key of jax is no number
        if not is_key and math.prod(value.shape) == 1:
            return _plain(np.asarray(value).item())
        if is_key or len(value.shape) != 1 or not 0 < len(value) <= _LONG:
            return f"{value.dtype}{list(value.shape)}"
        return str(value)
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


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
