"""Split mapped axes into axes of environments and of lanes, and reduce values over them.

Sums and maxima of many values take one collective for each dtype, as every device waits for the
slowest one at each collective. Where the devices are threads of one host, XLA also takes several
times as long for a tuple of scalars as for one vector of them.
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
    """Return the sum of every leaf over mapped axes, with one collective for each dtype.

    Without axes, None or an empty tuple, the leaves are returned unchanged.
    """
    return _reduce_all(tree, axis_name, lax.psum)


def highest(tree: Tree, axis_name: AxisName | None) -> Tree:
    """Return the elementwise maximum of every leaf over mapped axes; arguments as for `total`."""
    return _reduce_all(tree, axis_name, lax.pmax)


def _reduce_all(tree: Tree, axis_name: AxisName | None, reduce: Callable[..., jax.Array]) -> Tree:
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


def manual_axes() -> tuple[str, ...]:
    """Return the axes of the `shard_map` or `pmap` that is being traced."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def split_axes(
    axis_name: AxisName | None, *, has_lane: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the axes that values are reduced over, and the manual axes that hold lanes.

    Values are reduced over `axis_name`; if it is None, over all manual axes, unless `init` was
    given a lane.
    """
    manual = manual_axes()
    if axis_name is None:
        reduced = () if has_lane else manual
    else:
        reduced = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
    return reduced, tuple(axis for axis in manual if axis not in reduced)


def gate(
    axis_name: AxisName | None, where: jax.Array | bool, *, has_lane: bool
) -> jax.Array | bool:
    """Close the gate `where` on all but the first of the devices that hold the same values."""
    reduced, _ = split_axes(axis_name, has_lane=has_lane)
    same = tuple(axis for axis in reduced if axis in manual_axes())
    return jnp.logical_and(where, lax.axis_index(same) == 0) if same else where


def sharded_like(new: jax.Array, old: jax.Array) -> jax.Array:
    """Reshard `new` like `old`, as the carry of a scan keeps its type on an Explicit mesh."""
    there, spec = jax.typeof(new).sharding, jax.typeof(old).sharding.spec
    if there.spec == spec:
        return new
    return jax.sharding.reshard(new, jax.sharding.NamedSharding(there.mesh, spec))
