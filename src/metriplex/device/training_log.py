"""Flattening a training log to scalars by tag: pure, for tracers and constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metriplex.bridge.packing import is_real_dtype
from metriplex.errors import ConfigurationError, LoggingError

if TYPE_CHECKING:
    from jax.tree_util import KeyEntry

Leaf: TypeAlias = jax.Array | np.ndarray
"""A scalar's array; constants stay NumPy arrays, which keep 64 bits without x64."""


def flatten(
    training_log: object, *, prefix: str = "train", reduce: Literal["mean"] | None = None
) -> dict[str, Leaf]:
    """Return every scalar of a nested training log; the tag is the path, joined by `/`.

    Containers are mappings with string keys, named tuples, dataclasses (also those of equinox and
    flax, without their static fields), lists and tuples (index names the element), and every other
    class that is registered as a pytree. A scalar is a real number or a bool of size one, of any
    shape. None is absent.

    With `reduce="mean"`, an array whose size is not one becomes its mean, computed in float32, for
    float64 and NumPy arrays in float64; else it is an error. Values have the shape `[]` and the
    order of the training log. Python and NumPy numbers become NumPy arrays; Python's become bool,
    int64 or float64. Arrays of jax keep their dtype. Raises `LoggingError`, with the tag, for a
    value or key that can't be logged, and for two values of one tag.
    """
    if reduce not in {None, "mean"}:
        raise ConfigurationError(f'`reduce` must be None or "mean"; got {reduce!r}')
    if training_log is None:
        return {}
    if isinstance(training_log, list) or type(training_log) is tuple:
        raise _no_names(training_log)
    items = _items(training_log, prefix)
    if items is None:
        raise _no_names(training_log)
    scalars: dict[str, Leaf] = {}
    for tag, value in _walk(items, prefix):
        if tag in scalars:
            raise LoggingError(
                f"Two values of the training log have the tag `{tag}`; a tag names one value. "
                "Rename one: a key that holds a `/` can mean the same as nested keys"
            )
        scalars[tag] = _scalar(tag, value, reduce)
    return scalars


def _walk(items: Iterator[tuple[str, object]], parent: str) -> Iterator[tuple[str, object]]:
    for name, value in items:
        tag = f"{parent}/{name}" if parent else name
        children = _items(value, tag)
        if children is not None:
            yield from _walk(children, tag)
        elif value is not None:
            yield tag, value


def _items(value: object, tag: str) -> Iterator[tuple[str, object]] | None:
    """Return the named children of a container; None if `value` is not a container."""
    if _is_leaf(value):
        return None
    if isinstance(value, Mapping):
        return _checked(value, tag)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", range(len(value)))
        return ((str(name), child) for name, child in zip(fields, value, strict=True))
    if isinstance(value, list):
        return ((str(index), child) for index, child in enumerate(value))
    return _pytree_children(value)


def _is_leaf(value: object) -> bool:
    return (
        value is None
        or isinstance(value, bool | int | float | str | bytes)
        or hasattr(value, "__jax_array__")
        or hasattr(value, "__array__")
    )


def _checked(mapping: Mapping[object, object], tag: str) -> Iterator[tuple[str, object]]:
    for key, child in mapping.items():
        if not isinstance(key, str) or not key:
            raise LoggingError(
                f"The keys of a training log must be strings that are not empty; got {key!r} "
                f"({type(key).__name__}) under `{tag}`. Name it, for example `str(key)`"
            )
        yield key, child


def _fields(value: object) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(value):  # ty: ignore[invalid-argument-type] - checked by caller
        # jax and equinox mark a static field by `static`, flax by `pytree_node`
        if not field.metadata.get("static", False) and field.metadata.get("pytree_node", True):
            yield field.name, getattr(value, field.name)


def _pytree_children(value: object) -> Iterator[tuple[str, object]] | None:
    pairs, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda node: node is not value)
    if len(pairs) == 1 and pairs[0][1] is value:
        return None
    return ((_key_name(path[0]), child) for path, child in pairs)


def _key_name(key: KeyEntry) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _scalar(tag: str, value: object, reduce: str | None) -> Leaf:
    array = _array(tag, value)
    if array.size == 1:
        return array if array.shape == () else array.reshape(())
    if array.size > 1 and reduce == "mean":
        if isinstance(array, np.ndarray):
            return np.asarray(array.mean(dtype=np.float64))
        return jnp.mean(array.astype(jnp.promote_types(array.dtype, jnp.float32)))
    mend = (
        "An empty array has no mean: leave it out"
        if array.size == 0
        else 'Reduce it, for example with `jnp.mean`, or pass `reduce="mean"`'
    )
    raise LoggingError(
        f"`{tag}` has shape {array.shape}, dtype {array.dtype}; a logged value must have one "
        f"element. {mend}"
    )


def _array(tag: str, value: object) -> Leaf:
    """Return `value` as a real array of any shape; constants keep all bits."""
    if isinstance(value, float):
        return np.asarray(value, np.float64)
    convert = getattr(value, "__jax_array__", None)
    if callable(convert):
        value = convert()
    if isinstance(value, bool):
        return np.asarray(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise LoggingError(
                f"`{tag}` is the int {value}, which does not fit in 64 bits; log it as a float, or "
                "a smaller unit of it"
            )
        return np.asarray(value, np.int64)
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not is_real_dtype(array.dtype):
        kind = array.dtype if hasattr(value, "dtype") else type(value).__name__
        raise LoggingError(
            f"`{tag}` is of dtype {kind}; a logged value must be a real number or a bool. Leave it "
            "out of the training log, or log a number that says the same"
        )
    return _plain(array) if isinstance(array, np.ndarray) else array


def _plain(array: np.ndarray) -> np.ndarray:
    """Return the numbers in this machine's byte order, at most 64 bits wide."""
    dtype = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return array.astype(dtype, copy=False)


def _no_names(training_log: object) -> LoggingError:
    return LoggingError(
        "`training_log` must have names for its values: a dictionary, a named tuple or a "
        f"dataclass; got {type(training_log).__name__}. Give it as a dictionary, for example "
        '{"loss": loss}'
    )
