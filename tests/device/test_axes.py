"""Sums and maxima over devices: right values, and one collective operation for each dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from metriplex import MetricsCallback
from metriplex.device.axes import highest, total

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEVICES = 8
TREE = {
    "scalar": np.arange(DEVICES, dtype=np.float32),
    "matrix": np.arange(DEVICES * 6, dtype=np.float32).reshape(DEVICES, 2, 3) - 20,
    "empty": np.zeros((DEVICES, 0), np.float32),
    "half": np.arange(DEVICES, dtype=np.float16),
    "large": np.full(DEVICES, 2**24 + 1, np.int32) + np.arange(DEVICES, dtype=np.int32),
}


def over_devices(program: Callable[..., Any], **options: Any) -> Any:
    mesh = jax.make_mesh((DEVICES,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(program, mesh=mesh, in_specs=P("x"), out_specs=P(), **options))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize(
    ("reduce", "expected"),
    [(total, lambda leaf: leaf.sum(0, dtype=leaf.dtype)), (highest, lambda leaf: leaf.max(0))],
    ids=["total", "highest"],
)
def test_every_leaf_is_reduced_for_itself(
    reduce: Callable[..., Any], expected: Callable[..., Any], check_vma: bool
) -> None:
    def program(tree: Any) -> Any:
        return reduce(jax.tree.map(lambda leaf: leaf[0], tree), "x")

    mapped = over_devices(program, check_vma=check_vma)
    found = mapped(TREE)
    for name, leaf in TREE.items():
        assert found[name].dtype == leaf.dtype
        np.testing.assert_array_equal(found[name], expected(leaf))
    assert mapped.lower(TREE).as_text().count("all_reduce") == 3  # float32, float16, int32


def test_it_works_over_an_axis_of_vmap() -> None:
    found = jax.vmap(lambda tree: total(tree, "x"), axis_name="x", out_axes=None)(TREE)
    np.testing.assert_array_equal(found["matrix"], TREE["matrix"].sum(0))


@pytest.mark.parametrize("axes", [None, ()])
def test_without_axes_nothing_changes(axes: tuple[()] | None) -> None:
    assert total(TREE, axes) is TREE
    assert highest(TREE, axes) is TREE


@pytest.mark.parametrize(("episode_stats", "exchanges"), [(False, 1), (True, 4)])
def test_a_record_takes_one_exchange(tmp_path: Path, episode_stats: bool, exchanges: int) -> None:
    """The newest episodes need three more: one for their count, two for their extremes."""

    def program(reward: jax.Array) -> Any:
        state = metrics.on_step(metrics.init(1), reward, reward > 3)
        log = {"loss": reward[0], "nested": {"entropy": jnp.exp(reward[0]), "count": 3}}
        return metrics.on_iteration(state, training_log=log).sequence

    with MetricsCallback(log_dir=tmp_path, backends=[], episode_stats=episode_stats) as metrics:
        lowered = over_devices(program, check_vma=False).lower(jnp.arange(float(DEVICES)))
    assert lowered.as_text().count("all_reduce") == exchanges
