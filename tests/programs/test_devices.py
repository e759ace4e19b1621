"""Programs on eight devices log what the same program logs on one, each record once."""

from __future__ import annotations

import tempfile
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from memory import host_calls, logging_to_memory, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metriplex import MetricsCallback, MetricsState

DEVICES = 8
ENVS = 16
ITERATIONS = 4
REWARDS = jnp.arange(float(ENVS))


def mesh(kind: AxisType, *shape: int) -> jax.sharding.Mesh:
    shape = shape or (DEVICES,)
    return jax.make_mesh(shape, ("x", "y")[: len(shape)], axis_types=(kind,) * len(shape))


def train(
    metrics: MetricsCallback, rewards: jax.Array, *, envs: int | None = None, lane: Any = None
) -> jax.Array:
    """Environment i earns `rewards[i]` a step and ends an episode each step."""
    state = metrics.init(envs or len(rewards), lane=lane)
    state = metrics.on_training_start(state)

    def iterate(state: MetricsState, index: jax.Array) -> tuple[MetricsState, None]:
        reward = rewards * (index + 1)
        state = metrics.on_step(state, reward, jnp.ones_like(rewards, bool))
        log = {"loss": rewards.mean(), "half": jnp.bfloat16(1.5), "index": index, "constant": 0.1}
        return metrics.on_iteration(state, training_log=log), None

    state, _ = lax.scan(iterate, state, jnp.arange(ITERATIONS))
    return metrics.on_training_end(state).episodes.return_ema


@cache
def ema(reward: float) -> list[float]:
    """The averages of one environment, iteration by iteration."""
    average, found = np.float32(reward), []
    for index in range(ITERATIONS):
        newest = np.float32(reward * (index + 1))
        if index:
            average = np.float32(0.9) * newest + np.float32(1 - 0.9) * average
        found.append(float(average))
    return found


def assert_same(found: list[Any], expected: list[Any]) -> None:
    """All equal, but for the order in which devices add up floats."""
    assert [one[:3] for one in found] == [one[:3] for one in expected]
    for (*_, values), (*_, others) in zip(found, expected, strict=True):
        assert list(values) == list(others)
        assert values == pytest.approx(others, rel=1e-6)


# ---- environments over devices ------------------------------------------------------------------


def sharded(kind: AxisType, metrics: MetricsCallback) -> Any:
    where = mesh(kind)
    rewards = jax.device_put(REWARDS, NamedSharding(where, P("x")))
    with jax.set_mesh(where):
        return jax.jit(train)(metrics, rewards)


def without_set_mesh(metrics: MetricsCallback) -> Any:
    where = NamedSharding(mesh(AxisType.Auto), P("x"))
    return jax.jit(train)(metrics, jax.device_put(REWARDS, where))


def in_shard_map(metrics: MetricsCallback, *, check: bool) -> Any:
    program = jax.shard_map(
        partial(train, metrics),
        mesh=mesh(AxisType.Auto),
        in_specs=P("x"),
        out_specs=P("x"),
        check_vma=check,
    )
    return jax.jit(program)(REWARDS)


def in_two_axes(metrics: MetricsCallback) -> Any:
    program = jax.shard_map(
        partial(train, metrics),
        mesh=mesh(AxisType.Auto, 4, 2),
        in_specs=P(("x", "y")),
        out_specs=P(("x", "y")),
    )
    return jax.jit(program)(REWARDS)


def in_explicit_shard_map(metrics: MetricsCallback) -> Any:
    where = mesh(AxisType.Explicit)
    rewards = jax.device_put(REWARDS, NamedSharding(where, P("x")))
    with jax.set_mesh(where):
        program = jax.shard_map(partial(train, metrics), in_specs=P("x"), out_specs=P("x"))
        return jax.jit(program)(rewards)


def in_one_manual_axis_of_two(metrics: MetricsCallback) -> Any:
    with jax.set_mesh(mesh(AxisType.Auto, 4, 2)):
        program = jax.shard_map(
            partial(train, metrics), in_specs=P("x"), out_specs=P("x"), axis_names={"x"}
        )
        return jax.jit(program)(REWARDS)


def over_mixed_axes(metrics: MetricsCallback) -> Any:
    kinds = (AxisType.Explicit, AxisType.Auto)
    where = jax.make_mesh((4, 2), ("x", "y"), axis_types=kinds)
    rewards = jax.device_put(REWARDS, NamedSharding(where, P("x")))
    with jax.set_mesh(where):
        return jax.jit(train)(metrics, rewards)


def on_devices(metrics: MetricsCallback, *, chosen: slice, manual: bool) -> Any:
    """On some devices only, or in another order."""
    where = jax.sharding.Mesh(np.array(jax.devices()[chosen]), ("x",))
    if not manual:
        return jax.jit(train)(metrics, jax.device_put(REWARDS, NamedSharding(where, P("x"))))
    program = jax.shard_map(partial(train, metrics), mesh=where, in_specs=P("x"), out_specs=P("x"))
    return jax.jit(program)(REWARDS)


def in_pmap(metrics: MetricsCallback) -> Any:
    return jax.pmap(partial(train, metrics), axis_name="x")(REWARDS.reshape(DEVICES, -1))


def in_vmap(metrics: MetricsCallback) -> Any:
    program = jax.vmap(partial(train, metrics), axis_name="x")
    return jax.jit(program)(REWARDS.reshape(DEVICES, -1))


SPREAD: dict[str, tuple[Callable[[MetricsCallback], Any], dict[str, Any]]] = {
    "jit, Auto": (partial(sharded, AxisType.Auto), {}),
    "jit, Explicit": (partial(sharded, AxisType.Explicit), {}),
    "jit, no set_mesh": (without_set_mesh, {}),
    "shard_map": (partial(in_shard_map, check=True), {}),
    "shard_map, unchecked": (partial(in_shard_map, check=False), {}),
    "shard_map, named": (partial(in_shard_map, check=True), {"axis_name": "x"}),
    "shard_map of two axes": (in_two_axes, {}),
    "shard_map of two named": (in_two_axes, {"axis_name": ("x", "y")}),
    "shard_map, Explicit": (in_explicit_shard_map, {}),
    "shard_map of one axis of two": (in_one_manual_axis_of_two, {}),
    "jit, Explicit and Auto": (over_mixed_axes, {}),
    "jit, some devices": (partial(on_devices, chosen=slice(2, 6), manual=False), {}),
    "jit, reversed": (partial(on_devices, chosen=slice(None, None, -1), manual=False), {}),
    "shard_map, reversed": (partial(on_devices, chosen=slice(None, None, -1), manual=True), {}),
    "pmap": (in_pmap, {}),
    "pmap, named": (in_pmap, {"axis_name": "x"}),
    "vmap, named": (in_vmap, {"axis_name": "x"}),
}


@cache
def on_one_device(*options: tuple[str, Any]) -> list[Any]:
    with (
        tempfile.TemporaryDirectory() as log_dir,
        logging_to_memory(log_dir, **dict(options)) as (metrics, memory),
    ):
        jax.jit(train)(metrics, REWARDS)
    return plain(memory.records)


def compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, **options: Any
) -> tuple[list[Any], int]:
    """The records of one device, which are those of all; and how often these called the host."""
    expected = on_one_device(*options.items())
    run, named = SPREAD[way]
    blocks = host_calls(monkeypatch)
    with logging_to_memory(tmp_path, **options, **named) as (metrics, memory):
        averages = np.asarray(run(metrics)).ravel()
    np.testing.assert_allclose(averages, [ema(reward)[-1] for reward in range(ENVS)], rtol=1e-6)
    assert_same(plain(memory.records), expected)
    return expected, len(blocks)


@pytest.mark.parametrize("way", SPREAD)
@pytest.mark.long
def test_environments_over_devices_log_once_what_they_log_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    expected, calls = compare(tmp_path, monkeypatch, way)
    assert [step for _, step, _, _ in expected] == [16, 32, 48, 64]
    assert calls == ITERATIONS + 2


@pytest.mark.parametrize("way", ["jit, Explicit", "shard_map", "pmap", "vmap, named"])
@pytest.mark.long
def test_buffered_windows_of_every_second_iteration_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    options = {"buffer": 3, "episode_stats": True, "log_every": 2}
    expected, calls = compare(tmp_path, monkeypatch, way, **options)
    assert [iteration for _, _, iteration, _ in expected] == [1, 3]
    assert [values["episode/count"] for *_, values in expected] == [2 * ENVS, 2 * ENVS]
    assert calls == 4  # the start, the first window at once, the second at the end, the end


# ---- seeds over devices -------------------------------------------------------------------------


def per_device(metrics: MetricsCallback) -> Any:
    where = mesh(AxisType.Auto)
    program = jax.shard_map(partial(train, metrics), mesh=where, in_specs=P("x"), out_specs=P("x"))
    return jax.jit(program)(REWARDS)


def given_lanes(metrics: MetricsCallback) -> Any:
    def seeds(rewards: jax.Array, lanes: jax.Array) -> jax.Array:
        return jax.vmap(lambda reward, lane: train(metrics, reward[None], lane=lane))(
            rewards, lanes
        )

    where = mesh(AxisType.Auto)
    program = jax.shard_map(seeds, mesh=where, in_specs=P("x"), out_specs=P("x"))
    return jax.jit(program)(REWARDS, jnp.arange(ENVS))


def counted_lanes(metrics: MetricsCallback) -> Any:
    where = mesh(AxisType.Auto)
    seeds = jax.vmap(lambda reward: train(metrics, reward[None]))
    return jax.jit(jax.shard_map(seeds, mesh=where, in_specs=P("x"), out_specs=P("x")))(REWARDS)


def given_in_pmap(metrics: MetricsCallback) -> Any:
    program = jax.pmap(lambda rewards, lane: train(metrics, rewards, lane=lane))
    return program(REWARDS.reshape(DEVICES, -1), jnp.arange(DEVICES))


def over_explicit_axis(metrics: MetricsCallback) -> Any:
    where = mesh(AxisType.Explicit)
    rewards = jax.device_put(REWARDS, NamedSharding(where, P("x")))
    with jax.set_mesh(where):
        return jax.jit(jax.vmap(lambda reward: train(metrics, reward[None])))(rewards)


def over_auto_axis(metrics: MetricsCallback) -> Any:
    rewards = jax.device_put(REWARDS, NamedSharding(mesh(AxisType.Auto), P("x")))
    return jax.jit(jax.vmap(lambda reward: train(metrics, reward[None])))(rewards)


def seeds_by_envs(metrics: MetricsCallback) -> Any:
    """Four seeds over one axis, each with its environments over the other."""
    program = jax.shard_map(
        partial(train, metrics),
        mesh=mesh(AxisType.Auto, 4, 2),
        in_specs=P(("x", "y")),
        out_specs=P(("x", "y")),
    )
    return jax.jit(program)(REWARDS)


SEEDS: dict[str, tuple[Callable[[MetricsCallback], Any], dict[str, Any], int]] = {
    "shard_map": (per_device, {"axis_name": ()}, 8),
    "shard_map of vmap, lanes given": (given_lanes, {}, 16),
    "shard_map of vmap, lanes counted": (counted_lanes, {"axis_name": ()}, 16),
    "pmap": (in_pmap, {"axis_name": ()}, 8),
    "pmap, lanes given": (given_in_pmap, {}, 8),
    "vmap over an Explicit axis": (over_explicit_axis, {}, 16),
    "vmap over an Auto axis": (over_auto_axis, {}, 16),
    "two axes, one of seeds": (seeds_by_envs, {"axis_name": "y"}, 4),
}


BUFFERED = ("shard_map", "shard_map of vmap, lanes counted", "vmap over an Explicit axis")


@pytest.mark.parametrize(
    ("way", "buffer"), [*((way, 0) for way in SEEDS), *((w, 3) for w in BUFFERED)]
)
def test_seeds_over_devices_are_lanes(tmp_path: Path, way: str, buffer: int) -> None:
    run, options, lanes = SEEDS[way]
    with logging_to_memory(tmp_path, buffer=buffer, **options) as (metrics, memory):
        run(metrics)
    envs = ENVS // lanes
    assert memory.lanes == list(range(lanes))
    assert len(memory.records) == lanes * ITERATIONS
    for lane in range(lanes):
        of_lane = range(envs * lane, envs * (lane + 1))
        assert memory.steps(lane) == [envs * (index + 1) for index in range(ITERATIONS)]
        assert memory.values("train/loss", lane) == [sum(of_lane) / envs] * ITERATIONS
        averages = np.mean([ema(reward) for reward in of_lane], axis=0)
        assert memory.values("episode/return", lane) == pytest.approx(averages, rel=1e-6)


def test_statistics_over_seeds_that_come_by_a_call_a_device(tmp_path: Path) -> None:
    run, options, lanes = SEEDS["shard_map"]
    described = {"first": REWARDS.reshape(lanes, -1)[:, 0]}
    with logging_to_memory(tmp_path, aggregate=True, lanes=described, **options) as (
        metrics,
        memory,
    ):
        run(metrics)
    losses = REWARDS.reshape(lanes, -1).mean(axis=1)
    assert memory.values("aggregate/train/loss/mean") == [float(losses.mean())] * ITERATIONS
    assert memory.values("aggregate/train/loss/max") == [float(losses.max())] * ITERATIONS
    assert memory.steps() == [2 * (index + 1) for index in range(ITERATIONS)]


def test_a_long_program_on_eight_devices_logs_in_order(tmp_path: Path) -> None:
    def program(metrics: MetricsCallback, rewards: jax.Array) -> Any:
        def iterate(state: MetricsState, index: jax.Array) -> tuple[MetricsState, None]:
            return metrics.on_iteration(state, training_log={"index": index}), None

        return lax.scan(iterate, metrics.init(len(rewards)), jnp.arange(1000))[0].iteration[None]

    with logging_to_memory(tmp_path) as (metrics, memory):
        spread = jax.shard_map(
            partial(program, metrics), mesh=mesh(AxisType.Auto), in_specs=P("x"), out_specs=P("x")
        )
        assert jax.jit(spread)(REWARDS).tolist() == [1000] * DEVICES
    assert memory.values("train/index") == list(range(1000))


def test_log_is_written_by_one_device(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program = jax.shard_map(
            lambda _: metrics.log(7, {"a": 0.5}),
            mesh=mesh(AxisType.Auto),
            in_specs=P("x"),
            out_specs=None,
        )
        jax.jit(program)(REWARDS)
    assert plain(memory.records) == [(None, 7, None, {"a": 0.5})]


def test_without_set_mesh_jax_itself_scans_no_explicit_lanes() -> None:
    """Why `vmap` over a sharded Explicit axis needs `jax.set_mesh`: metriplex has no part in it."""
    rewards = jax.device_put(REWARDS, NamedSharding(mesh(AxisType.Explicit), P("x")))

    def program(reward: jax.Array) -> jax.Array:
        return lax.scan(lambda total, _: (total + reward, None), jnp.zeros(1), length=2)[0]

    with pytest.raises(ValueError, match="not found in mesh"):
        jax.jit(jax.vmap(program))(rewards)
