"""Episode statistics agree with a naive loop, under every jax transformation that loops use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from metriplex import ConfigurationError, LoggingError
from metriplex.device.episodes import (
    EpisodeStats,
    EpisodeWindow,
    init_stats,
    reset_window,
    update_stats,
)
from metriplex.device.summary import average_stats, window_stats

ALPHA = 0.9
TIME, ENVS = 24, 3

Reduced: TypeAlias = tuple[tuple[jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax.typing import ArrayLike


@dataclass
class Naive:
    """Statistics of one environment, in Python's float64."""

    running: float = 0.0
    steps: int = 0
    ema: tuple[float, float] | None = None
    window: list[tuple[float, int]] = field(default_factory=list)

    def step(self, reward: float, done: bool, alpha: float) -> None:
        self.running += reward
        self.steps += 1
        if not done:
            return
        newest = (self.running, self.steps)
        if self.ema is None:
            self.ema = newest
        else:
            old = self.ema
            self.ema = (
                alpha * newest[0] + (1 - alpha) * old[0],
                alpha * newest[1] + (1 - alpha) * old[1],
            )
        self.window.append(newest)
        self.running, self.steps = 0.0, 0


def naive(rewards: np.ndarray, dones: np.ndarray, alpha: float) -> list[Naive]:
    envs = [Naive() for _ in range(rewards.shape[1])]
    for reward, done in zip(rewards, dones, strict=True):
        for env, r, d in zip(envs, reward, done, strict=True):
            env.step(float(r), bool(d), alpha)
    return envs


def rollout(
    seed: int, time: int, num_envs: int, ends: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(time, num_envs)).astype(np.float32)
    return rewards, rng.random((time, num_envs)) < ends


def assert_same_bits(left: object, right: object) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def window_of(stats: EpisodeStats) -> EpisodeWindow:
    assert stats.window is not None
    return stats.window


def taken(num_envs: int, rewards: object, dones: object, alpha: float = ALPHA) -> EpisodeStats:
    return update_stats(init_stats(num_envs), np.array(rewards), np.array(dones), alpha=alpha)


def types(stats: EpisodeStats) -> list[tuple[tuple[int, ...], np.dtype, bool]]:
    return [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(stats)]


# the start


def test_the_start_is_zero_in_fixed_dtypes() -> None:
    stats = init_stats(4)
    assert {leaf.shape for leaf in jax.tree.leaves(stats)} == {(4,)}
    assert stats.episode_return.tolist() == stats.return_ema.tolist() == [0.0] * 4
    assert stats.episode_return.dtype == stats.length_ema.dtype == jnp.float32
    assert stats.episode_length.dtype == window_of(stats).count.dtype == jnp.int32
    assert stats.finished.tolist() == [False] * 4
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(stats))


def test_every_leaf_has_a_buffer_of_its_own() -> None:
    for stats in (init_stats(4), jax.jit(init_stats, static_argnums=0)(4)):
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(stats)]
        assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("num_envs", [0, -1, 2.5, True, "4", None])
def test_a_number_of_environments_must_be_a_positive_int(num_envs: object) -> None:
    with pytest.raises(ConfigurationError, match=r"`num_envs` must be a positive int, .* got "):
        init_stats(num_envs)  # ty: ignore[invalid-argument-type] - the point of the test


def test_a_numpy_integer_is_a_number_of_environments() -> None:
    assert init_stats(np.int64(2)).finished.shape == (2,)  # ty: ignore[invalid-argument-type]


# the values


def test_the_average_starts_at_the_first_episode_and_weighs_the_newest() -> None:
    stats = init_stats(2)
    rewards = jnp.array([[1.0, 5.0], [2.0, 5.0], [10.0, 5.0], [10.0, 5.0], [10.0, 5.0]])
    dones = jnp.array([[0, 0], [1, 0], [0, 0], [0, 0], [1, 0]])
    first = update_stats(stats, rewards[:2], dones[:2], alpha=0.9)
    assert first.return_ema.tolist() == [3.0, 0.0]
    assert first.length_ema.tolist() == [2.0, 0.0]
    assert first.finished.tolist() == [True, False]
    second = update_stats(first, rewards[2:], dones[2:], alpha=0.9)
    np.testing.assert_allclose(second.return_ema[0], 0.9 * 30 + 0.1 * 3, rtol=1e-6)
    np.testing.assert_allclose(second.length_ema[0], 0.9 * 3 + 0.1 * 2, rtol=1e-6)
    assert second.episode_return.tolist() == [0.0, 25.0]
    assert second.episode_length.tolist() == [0, 5]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), alpha=st.floats(0.01, 1.0))
def test_a_rollout_agrees_with_a_naive_loop(data: st.DataObject, alpha: float) -> None:
    cells = TIME * ENVS
    # eighths add up exactly in float32, so that only the moving average rounds
    eighths = data.draw(st.lists(st.integers(-800, 800), min_size=cells, max_size=cells))
    ends = data.draw(st.lists(st.booleans(), min_size=cells, max_size=cells))
    rewards = np.array(eighths, np.float32).reshape(TIME, ENVS) / 8
    dones = np.array(ends).reshape(TIME, ENVS)
    stats = update_stats(init_stats(ENVS), rewards, dones, alpha=alpha)
    envs = naive(rewards, dones, alpha)

    assert stats.episode_return.tolist() == [env.running for env in envs]
    assert stats.episode_length.tolist() == [env.steps for env in envs]
    assert stats.finished.tolist() == [env.ema is not None for env in envs]
    assert window_of(stats).count.tolist() == [len(env.window) for env in envs]
    emas = [env.ema for env in envs if env.ema is not None]
    mean_return, mean_length, present = average_stats(stats)
    episodes = [episode for env in envs for episode in env.window]
    seen = window_stats(stats)
    assert bool(present) == bool(emas)
    assert int(seen["count"]) == len(episodes)
    if not emas:
        assert float(mean_return) == float(mean_length) == 0.0
        assert {key: float(value) for key, value in seen.items()} == dict.fromkeys(seen, 0.0)
        return
    close = partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-3)
    close(mean_return, np.mean([ema[0] for ema in emas]))
    close(mean_length, np.mean([ema[1] for ema in emas]))
    returns, lengths = zip(*episodes, strict=True)
    assert float(seen["return_min"]) == min(returns)
    assert float(seen["return_max"]) == max(returns)
    assert int(seen["length_min"]) == min(lengths)
    assert int(seen["length_max"]) == max(lengths)
    close(seen["return_mean"], np.mean(returns))
    close(seen["length_mean"], np.mean(lengths))


def test_alpha_one_keeps_the_newest_episode_alone() -> None:
    stats = taken(1, [[1.0], [7.0]], [[True], [True]], alpha=1.0)
    assert stats.return_ema.tolist() == [7.0]


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.bool_, jnp.bfloat16, jnp.float16])
def test_rewards_of_every_real_dtype_add_up_in_float32(dtype: type) -> None:
    ones = jnp.ones((600, 2), dtype)
    stats = update_stats(init_stats(2), ones, jnp.zeros((600, 2), jnp.bool_), alpha=ALPHA)
    assert stats.episode_return.tolist() == [600.0, 600.0]
    assert stats.episode_return.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.float32, jnp.bfloat16])
def test_done_may_be_a_number(dtype: type) -> None:
    rewards, dones = rollout(0, 5, 2, ends=0.5)
    expected = update_stats(init_stats(2), rewards, dones, alpha=ALPHA)
    assert_same_bits(
        update_stats(init_stats(2), rewards, dones.astype(dtype), alpha=ALPHA), expected
    )


def test_one_environment_may_step_with_scalars() -> None:
    stats = update_stats(init_stats(1), 2.5, False, alpha=ALPHA)
    stats = update_stats(stats, jnp.float32(1.5), jnp.bool_(True), alpha=ALPHA)
    assert stats.return_ema.tolist() == [4.0]
    assert stats.length_ema.tolist() == [2.0]


def test_an_empty_rollout_changes_nothing() -> None:
    stats = update_stats(init_stats(2), *rollout(1, 9, 2), alpha=ALPHA)
    empty = update_stats(stats, jnp.zeros((0, 2)), jnp.zeros((0, 2), jnp.bool_), alpha=ALPHA)
    assert_same_bits(empty, stats)


# NaN and infinity


def test_a_nan_reward_stays_in_its_own_environment_and_its_own_episode() -> None:
    rewards = np.ones((4, 3), np.float32)
    rewards[0, 1] = np.nan
    dones = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]], bool)
    first = update_stats(init_stats(3), rewards[:2], dones[:2], alpha=ALPHA)
    assert first.return_ema[0] == 2.0
    assert np.isnan(first.return_ema[1])
    assert first.length_ema.tolist() == [2.0, 2.0, 0.0]
    assert np.isnan(average_stats(first)[0])
    assert np.isnan(
        [window_stats(first)[f"return_{name}"] for name in ("min", "max", "mean")]
    ).all()
    second = update_stats(first, rewards[2:], dones[2:], alpha=ALPHA)
    np.testing.assert_allclose(second.return_ema[:2], [2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(average_stats(second)[0], 2.0, rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_return_is_shown_once_and_then_forgotten(value: float) -> None:
    stats = taken(1, [[1.0], [value]], [[True], [True]])
    assert float(average_stats(stats)[0]) == value
    stats = update_stats(stats, np.array([3.0]), np.array([True]), alpha=ALPHA)
    assert float(average_stats(stats)[0]) == 3.0


def test_an_unfinished_episode_of_nan_is_in_no_average() -> None:
    stats = taken(2, [4.0, np.nan], [True, False])
    assert np.isnan(stats.episode_return[1])
    assert float(average_stats(stats)[0]) == 4.0
    assert float(window_stats(stats)["return_mean"]) == 4.0


# transforms


@pytest.mark.long
def test_steps_and_rollouts_agree_to_the_bit_however_they_are_compiled() -> None:
    rewards, dones = rollout(2, 200, 7)
    whole = update_stats(init_stats(7), rewards, dones, alpha=ALPHA)

    def all_steps() -> EpisodeStats:
        stats = init_stats(7)
        for reward, done in zip(rewards, dones, strict=True):
            stats = update_stats(stats, reward, done, alpha=ALPHA)
        return stats

    def loop(stats: EpisodeStats, rewards: jax.Array, dones: jax.Array) -> EpisodeStats:
        def body(index: jax.Array, stats: EpisodeStats) -> EpisodeStats:
            return update_stats(stats, rewards[index], dones[index], alpha=ALPHA)

        looped = jax.lax.fori_loop(0, 200, body, stats)
        assert isinstance(looped, EpisodeStats)
        return looped

    assert_same_bits(all_steps(), whole)
    assert_same_bits(jax.jit(loop)(init_stats(7), rewards, dones), whole)
    assert_same_bits(
        jax.jit(partial(update_stats, alpha=ALPHA))(init_stats(7), rewards, dones), whole
    )
    with jax.disable_jit():
        rewards, dones = rewards[:20], dones[:20]
        short = all_steps()
    assert_same_bits(update_stats(init_stats(7), rewards, dones, alpha=ALPHA), short)


def test_a_rollout_in_pieces_agrees_to_the_bit() -> None:
    rewards, dones = rollout(3, 40, 3)
    pieces = init_stats(3)
    for start in range(0, 40, 10):
        part = slice(start, start + 10)
        pieces = update_stats(pieces, rewards[part], dones[part], alpha=ALPHA)
    assert_same_bits(pieces, update_stats(init_stats(3), rewards, dones, alpha=ALPHA))


def test_vmapped_lanes_agree_with_single_ones_to_the_bit() -> None:
    rollouts = [rollout(seed, 50, 4) for seed in range(5)]
    rewards, dones = (np.stack(part) for part in zip(*rollouts, strict=True))

    def lane(rewards: ArrayLike, dones: ArrayLike) -> tuple[EpisodeStats, object, object]:
        stats = update_stats(init_stats(4), rewards, dones, alpha=ALPHA)
        return stats, average_stats(stats), window_stats(stats)

    vmapped = jax.jit(jax.vmap(lane))(rewards, dones)
    for index, (reward, done) in enumerate(rollouts):
        assert_same_bits(jax.tree.map(lambda x, i=index: x[i], vmapped), lane(reward, done))


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32, jnp.bfloat16])
def test_the_state_is_a_carry(x64: bool, dtype: type) -> None:
    with jax.enable_x64(x64):
        before = jax.eval_shape(lambda: init_stats(3))

        def iteration(stats: EpisodeStats, rewards: jax.Array) -> EpisodeStats:
            stats = update_stats(stats, rewards, rewards > 0, alpha=ALPHA)
            stats = update_stats(stats, rewards[0], rewards[0] > 0, alpha=ALPHA)
            return reset_window(stats, rewards[0, 0] > 0)

        after = jax.eval_shape(iteration, before, jnp.ones((5, 3), dtype))
        float64 = jax.eval_shape(iteration, before, np.ones((5, 3)))
    assert types(after) == types(before)
    assert types(float64) == types(before)


def test_a_donated_state_is_used_up_and_gives_the_same() -> None:
    rewards, dones = rollout(4, 12, 3)
    expected = update_stats(init_stats(3), rewards, dones, alpha=ALPHA)
    donated = init_stats(3)
    given_back = jax.jit(partial(update_stats, alpha=ALPHA), donate_argnums=0)(
        donated, rewards, dones
    )
    assert_same_bits(given_back, expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))


def test_no_gradient_passes() -> None:
    rewards, dones = rollout(5, 6, 2, ends=0.5)

    def loss(scale: jax.Array) -> jax.Array:
        stats = update_stats(init_stats(2), rewards * scale, dones, alpha=ALPHA)
        return average_stats(stats)[0] + window_stats(stats)["return_max"] + 3.0 * scale

    assert float(jax.jit(jax.grad(loss))(1.0)) == 3.0


# the reductions


def test_a_window_is_reset_only_where_it_is_asked() -> None:
    rewards, dones = rollout(6, 30, 2, ends=0.3)
    stats = update_stats(init_stats(2), rewards, dones, alpha=ALPHA)
    reset = jax.jit(jax.vmap(reset_window, in_axes=(None, 0)))(stats, jnp.array([True, False]))
    first, second = (jax.tree.map(lambda x, i=i: x[i], reset) for i in range(2))
    assert_same_bits(second, stats)
    assert_same_bits(first.window, init_stats(2).window)
    assert_same_bits(first, reset_window(stats))
    assert first.return_ema.tolist() == stats.return_ema.tolist()
    assert int(window_stats(first)["count"]) == 0


def test_after_a_reset_only_newer_episodes_count() -> None:
    stats = taken(1, [[100.0], [1.0]], [[True], [False]])
    rewards, dones = np.array([[2.0], [5.0]]), np.array([[True], [True]])
    stats = update_stats(reset_window(stats), rewards, dones, alpha=ALPHA)
    assert {key: float(value) for key, value in window_stats(stats).items()} == {
        "count": 2,
        "return_min": 3,
        "return_max": 5,
        "return_mean": 4,
        "length_min": 1,
        "length_max": 2,
        "length_mean": 1.5,
    }


def test_a_state_without_a_window_is_smaller_and_otherwise_the_same() -> None:
    rewards, dones = rollout(9, 20, 2)
    stats = update_stats(init_stats(2, window=False), rewards, dones, alpha=ALPHA)
    full = update_stats(init_stats(2), rewards, dones, alpha=ALPHA)
    assert len(jax.tree.leaves(stats)) == 5
    assert_same_bits(stats, replace(full, window=None))
    assert reset_window(stats) is stats
    with pytest.raises(
        ConfigurationError, match=r"keeps no window .* `init_stats\(num_envs, window"
    ):
        window_stats(stats)


def test_many_environments_keep_their_precision() -> None:
    rng = np.random.default_rng(7)
    rewards = rng.normal(500.0, 100.0, 65_536).astype(np.float32)
    stats = update_stats(init_stats(65_536), rewards, np.ones(65_536, bool), alpha=ALPHA)
    mean = float(np.mean(rewards, dtype=np.float64))
    np.testing.assert_allclose(jax.jit(average_stats)(stats)[0], mean, rtol=2e-6)
    np.testing.assert_allclose(window_stats(stats)["return_mean"], mean, rtol=2e-6)


# several devices


def sharded_case() -> tuple[np.ndarray, np.ndarray, EpisodeStats]:
    rewards, dones = rollout(8, 30, 16)
    dones[:, 2:4] = False  # a device whose environments finish nothing
    return rewards, dones, update_stats(init_stats(16), rewards, dones, alpha=ALPHA)


def assert_global(reduced: Reduced, stats: EpisodeStats) -> None:
    expected = (average_stats(stats), window_stats(stats))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), reduced, expected)


@pytest.mark.parametrize("inside", [True, False], ids=["started inside", "started outside"])
@pytest.mark.parametrize("sizes", [(8,), (2, 4)])
def test_a_sharded_state_gives_the_global_values(sizes: tuple[int, ...], inside: bool) -> None:
    rewards, dones, expected = sharded_case()
    names = ("hosts", "devices")[: len(sizes)]
    axis_name = names[0] if len(names) == 1 else names
    mesh = jax.make_mesh(sizes, names, axis_types=(jax.sharding.AxisType.Auto,) * len(sizes))
    spec = PartitionSpec(axis_name)

    def body(
        stats: EpisodeStats, rewards: jax.Array, dones: jax.Array
    ) -> tuple[EpisodeStats, Reduced]:
        stats = init_stats(2) if inside else stats
        stats = update_stats(stats, rewards[:20], dones[:20], alpha=ALPHA)
        for reward, done in zip(rewards[20:], dones[20:], strict=True):
            stats = update_stats(stats, reward, done, alpha=ALPHA)
        reduced = (average_stats(stats, axis_name), window_stats(stats, axis_name))
        kept = reset_window(stats, jnp.bool_(False))
        return kept, reduced

    across = PartitionSpec(None, axis_name)
    shard_mapped = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(spec, across, across),
        out_specs=(spec, PartitionSpec()),
    )
    stats, reduced = jax.jit(shard_mapped)(init_stats(16), rewards, dones)
    assert_same_bits(stats, expected)
    assert_global(reduced, expected)


@pytest.mark.parametrize("jit", [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.long)])
def test_before_any_episode_all_devices_agree_that_there_is_none(
    jit: Callable[[Callable[..., Reduced]], Callable[..., Reduced]],
) -> None:
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))

    def body(reward: jax.Array) -> Reduced:
        stats = update_stats(init_stats(2), reward, reward > 1e9, alpha=ALPHA)
        return average_stats(stats, "devices"), window_stats(stats, "devices")

    spec = PartitionSpec("devices")
    shard_mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=PartitionSpec())
    (mean_return, mean_length, present), seen = jit(shard_mapped)(jnp.ones(16))
    assert not present
    assert float(mean_return) == float(mean_length) == 0.0
    assert {float(value) for value in seen.values()} == {0.0}


def test_an_explicit_mesh_shards_the_state_by_its_rewards() -> None:
    rewards, dones, expected = sharded_case()
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "devices"))

    @jax.jit
    def train(rewards: jax.Array, dones: jax.Array) -> tuple[EpisodeStats, Reduced]:
        stats = update_stats(init_stats(16), rewards, dones, alpha=ALPHA)
        return reset_window(stats, jnp.bool_(False)), (average_stats(stats), window_stats(stats))

    with jax.set_mesh(mesh):
        stats, reduced = train(jax.device_put(rewards, sharding), jax.device_put(dones, sharding))
    assert stats.return_ema.sharding.spec == PartitionSpec("devices")
    assert_same_bits(stats, expected)
    assert_global(reduced, expected)


@pytest.mark.long
def test_a_vmapped_axis_name_reduces_too() -> None:
    rewards, dones, expected = sharded_case()

    def device(rewards: ArrayLike, dones: ArrayLike) -> Reduced:
        stats = update_stats(init_stats(2), rewards, dones, alpha=ALPHA)
        return average_stats(stats, "devices"), window_stats(stats, "devices")

    parts = [x.reshape(30, 8, 2).swapaxes(0, 1) for x in (rewards, dones)]
    for transform in (jax.vmap, jax.pmap):
        reduced = transform(device, axis_name="devices")(*parts)
        assert_global(jax.tree.map(lambda x: x[3], reduced), expected)


# what is refused


@pytest.mark.parametrize(
    ("reward", "done", "num_envs", "mend"),
    [
        ((4,), (3,), 4, "give one `done` for every reward"),
        ((4,), (), 4, "give one `done` for every reward"),
        ((5, 4), (4,), 4, "give one `done` for every reward"),
        ((4, 9), (4, 9), 4, "transpose both: time comes first"),
        ((3,), (3,), 4, "pass the number of environments to `init`"),
        ((), (), 4, "pass the number of environments to `init`"),
        ((5, 4, 1), (5, 4, 1), 4, "pass the number of environments to `init`"),
        ((6,), (6,), 1, r"a rollout of one environment is `reward\[:, None\]`"),
    ],
)
def test_shapes_that_do_not_fit_are_named_when_the_program_is_traced(
    reward: tuple[int, ...], done: tuple[int, ...], num_envs: int, mend: str
) -> None:
    traced = partial(jax.eval_shape, partial(update_stats, alpha=ALPHA), init_stats(num_envs))
    with pytest.raises(LoggingError, match=mend) as caught:
        traced(jnp.zeros(reward), jnp.zeros(done, jnp.bool_))
    message = str(caught.value)
    assert f"`reward` has shape {reward} and `done` has shape {done}" in message
    assert f"({num_envs},) for a step, or (time, {num_envs}) for a rollout" in message


@pytest.mark.parametrize("name", ["reward", "done"])
def test_dtypes_that_are_not_real_are_refused(name: str) -> None:
    arguments = {"reward": jnp.zeros(2), "done": jnp.zeros(2, jnp.bool_)}
    for wrong in (jnp.zeros(2, jnp.complex64), jax.random.split(jax.random.key(0), 2)):
        with pytest.raises(LoggingError, match=f"`{name}` must be of a real dtype or bool; got"):
            update_stats(init_stats(2), **{**arguments, name: wrong}, alpha=ALPHA)
