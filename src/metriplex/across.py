"""Sums and maxima over mapped axes, of many values by one exchange: pure, on the device.

At an exchange every device waits for the slowest, and where the devices are threads of one host
XLA takes several times as long for a tuple of scalars as for one vector of them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
    from collections.abc import Callable

AxisName: TypeAlias = str | tuple[str, ...]
"""One or several mapped axes of `pmap`, `shard_map` or `vmap(axis_name=)`."""

Tree = TypeVar("Tree")


def total(tree: Tree, axis_name: AxisName | None) -> Tree:
    """The sum of every leaf over mapped axes, by one exchange for each dtype.

    Args:
        tree: Arrays of any shapes, of integer and floating dtypes.
        axis_name: The axes; None or none of them leaves the leaves as they are.

    Returns:
        The same tree; every leaf is the same everywhere along the axes.
    """
    return _exchange(tree, axis_name, lax.psum)


def highest(tree: Tree, axis_name: AxisName | None) -> Tree:
    """The maximum of every leaf over mapped axes, element by element; as `total`."""
    return _exchange(tree, axis_name, lax.pmax)


def _exchange(tree: Tree, axis_name: AxisName | None, reduce: Callable[..., jax.Array]) -> Tree:
    if axis_name is None or axis_name == ():
        return tree
    leaves, structure = jax.tree.flatten(tree)
    places = defaultdict(list)
    for place, leaf in enumerate(leaves):
        places[leaf.dtype].append(place)
    for same in places.values():
        flat = jnp.concatenate([leaves[place].ravel() for place in same])
        reduced = reduce(flat, axis_name)
        start = 0
        for place in same:
            shape, size = leaves[place].shape, leaves[place].size
            leaves[place] = reduced[start : start + size].reshape(shape)
            start += size
    return cast("Tree", jax.tree.unflatten(structure, leaves))
