"""Episode statistics of each environment: a pytree and pure functions, on the device.

Every leaf has shape `[num_envs]`, and `update_stats` is elementwise over the environments: one
partition spec shards the whole state, and a step needs no reduction and no communication.
`metriplex.device.summary` reduces over the environments, once a record.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar, cast, final

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from metriplex.bridge.packing import is_real_dtype
from metriplex.errors import ConfigurationError, LoggingError

Weights: TypeAlias = tuple[ArrayLike, ArrayLike]
"""Weights of the newest episode and of the average before it: alpha and 1 - alpha."""

Stats = TypeVar("Stats", "EpisodeStats", "EpisodeWindow")

_LONGEST = 2**31 - 1


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EpisodeWindow:
    """Episodes that each environment finished since `reset_window`; all leaves are `[num_envs]`.

    Returns are float32. Lengths, in steps, and the count are int32. Where the count is 0, the other
    leaves have no meaning.
    """

    count: jax.Array
    return_min: jax.Array
    return_max: jax.Array
    return_sum: jax.Array
    length_min: jax.Array
    length_max: jax.Array
    length_sum: jax.Array


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EpisodeStats:
    """Episode statistics of each environment, a pytree; all leaves are `[num_envs]`.

    Attributes:
        episode_return: float32, sum of the rewards of the running episode.
        episode_length: int32, number of steps of the running episode.
        return_ema: float32, exponential moving average of the returns of finished episodes.
        length_ema: float32, exponential moving average of the lengths of finished episodes.
        finished: bool, True where the environment has finished an episode. Where it is False, the
            two averages are 0 and have no meaning.
        window: Episodes finished since `reset_window`; None without a window.
    """

    episode_return: jax.Array
    episode_length: jax.Array
    return_ema: jax.Array
    length_ema: jax.Array
    finished: jax.Array
    window: EpisodeWindow | None


def init_stats(num_envs: int, *, window: bool = True) -> EpisodeStats:
    """Return the statistics before the first step.

    Args:
        num_envs: Number of environments that step together.
        window: True to also keep the newest episodes, for `window_stats`.

    Returns:
        The statistics. Each leaf has its own buffer, so that a program can donate them.

    Raises:
        ConfigurationError: `num_envs` is not a positive integer.
    """
    number = _positive(num_envs)
    return EpisodeStats(
        episode_return=jnp.zeros(number, jnp.float32),
        episode_length=jnp.zeros(number, jnp.int32),
        return_ema=jnp.zeros(number, jnp.float32),
        length_ema=jnp.zeros(number, jnp.float32),
        finished=jnp.zeros(number, jnp.bool_),
        window=_empty_window(number) if window else None,
    )


def update_stats(
    stats: EpisodeStats, reward: ArrayLike, done: ArrayLike, *, alpha: float
) -> EpisodeStats:
    """Add one step of all environments, or a rollout of many steps.

    The return of an episode is the sum of its rewards in float32, the length is the number of its
    steps. The step at which `done` is true belongs to the episode that it ends. The average of an
    environment starts at the value `x` of the first episode that the environment finishes. Each
    later episode changes the average to

        ema = alpha * x + (1 - alpha) * ema

    If the return of an episode is not finite, the average starts again at the next episode of that
    environment. The averages of other environments don't change. Gradients stop here.

    Args:
        stats: The statistics before the step or rollout.
        reward: `[num_envs]` for a step, `[time, num_envs]` for a rollout, of any real dtype. With
            one environment a step may also be `[]`.
        done: True where the step ended an episode, of the same shape: bool, or numbers, of which
            every number but 0 counts as True.
        alpha: Weight of the newest episode, in (0, 1].

    Returns:
        The new statistics, of the same shapes and dtypes. One call with a rollout and one call for
        each step return the same bits.

    Raises:
        LoggingError: At trace time: the shapes differ, the shapes are neither a step nor a rollout
            of `num_envs` environments, or a dtype is not real.
    """
    reward = _real("reward", reward).astype(jnp.float32)
    done = _real("done", done).astype(jnp.bool_)
    num_envs = stats.episode_return.shape[-1]
    if num_envs == 1 and reward.shape == done.shape == ():
        reward, done = reward[None], done[None]
    _check_shapes(reward.shape, done.shape, num_envs)
    return cast("EpisodeStats", _update(stats, reward, done, (alpha, 1 - alpha)))


def reset_window(stats: EpisodeStats, where: ArrayLike = True) -> EpisodeStats:
    """Empty the window of newest episodes; the callback does so after each record.

    Args:
        stats: The statistics.
        where: bool `[]`, may be traced. If False, the window stays unchanged.

    Returns:
        The statistics with an empty window. Statistics without a window are returned unchanged.
    """
    if stats.window is None:
        return stats
    empty = _spread_like(_empty_window(stats.episode_return.shape[-1]), stats.episode_return)
    cleared = jax.tree.map(lambda new, old: jnp.where(where, new, old), empty, stats.window)
    return replace(stats, window=cleared)


def _empty_window(num_envs: int) -> EpisodeWindow:
    return EpisodeWindow(
        count=jnp.zeros(num_envs, jnp.int32),
        return_min=jnp.zeros(num_envs, jnp.float32),  # the count says that it has no meaning
        return_max=jnp.zeros(num_envs, jnp.float32),
        return_sum=jnp.zeros(num_envs, jnp.float32),
        length_min=jnp.full(num_envs, _LONGEST, jnp.int32),
        length_max=jnp.zeros(num_envs, jnp.int32),
        length_sum=jnp.zeros(num_envs, jnp.int32),
    )


@jax.jit
def _update(
    stats: EpisodeStats, reward: jax.Array, done: jax.Array, weights: Weights
) -> EpisodeStats:
    reward, done = lax.stop_gradient((reward, done))
    both = reward * done
    stats = _spread_like(stats, both if both.ndim == 1 else jnp.sum(both, axis=0))
    if reward.ndim == 1:
        return _step(stats, reward, done, weights)
    return lax.scan(lambda carry, xs: (_step(carry, *xs, weights), None), stats, (reward, done))[0]


def _step(
    stats: EpisodeStats, reward: jax.Array, done: jax.Array, weights: Weights
) -> EpisodeStats:
    newest_weight, past_weight = weights
    total = stats.episode_return + reward
    length = stats.episode_length + 1

    def average(ema: jax.Array, newest: jax.Array) -> jax.Array:
        newest = newest.astype(jnp.float32)
        # `maximum` changes no finite product, but keeps the compiler from fusing product and sum:
        # a fused operation rounds once instead of twice, so a rollout would differ from its steps
        # in the last bit
        lowest = jnp.finfo(jnp.float32).min
        moved = jnp.maximum(newest_weight * newest, lowest) + jnp.maximum(past_weight * ema, lowest)
        continues = stats.finished & jnp.isfinite(ema) & jnp.isfinite(newest)
        return jnp.where(done, jnp.where(continues, moved, newest), ema)

    def where_done(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(done, new, old)

    return EpisodeStats(
        episode_return=where_done(jnp.zeros_like(total), total),
        episode_length=where_done(jnp.zeros_like(length), length),
        return_ema=average(stats.return_ema, total),
        length_ema=average(stats.length_ema, length),
        finished=stats.finished | done,
        window=None if stats.window is None else _extend(stats.window, total, length, done),
    )


def _extend(
    old: EpisodeWindow, total: jax.Array, length: jax.Array, done: jax.Array
) -> EpisodeWindow:
    first = old.count == 0
    new = EpisodeWindow(
        count=old.count + 1,
        return_min=jnp.where(first, total, jnp.minimum(old.return_min, total)),
        return_max=jnp.where(first, total, jnp.maximum(old.return_max, total)),
        return_sum=old.return_sum + total,
        length_min=jnp.minimum(old.length_min, length),
        length_max=jnp.maximum(old.length_max, length),
        length_sum=old.length_sum + length,
    )
    extended = jax.tree.map(lambda newer, older: jnp.where(done, newer, older), new, old)
    return cast("EpisodeWindow", extended)


def _spread_like(tree: Stats, like: jax.Array) -> Stats:
    # An array's type holds the mesh axes over which the array varies (shard_map) or is sharded
    # (explicit axes). A scan's carry must keep its type, and both operands of `where` must have the
    # same type. Multiplying by one adds the axes of `like`; it changes no bit, and the compiler
    # removes the multiplication
    one = jnp.isfinite(like) | True
    spread = jax.tree.map(lambda leaf: leaf * one.astype(leaf.dtype), tree)
    return cast("Stats", spread)


def _positive(num_envs: int) -> int:
    try:
        number = operator.index(num_envs)
    except TypeError:
        number = 0
    if isinstance(num_envs, bool) or number < 1:
        raise ConfigurationError(
            f"`num_envs` must be a positive int, the number of environments that step together; "
            f"got {num_envs!r}"
        )
    return number


def _real(name: str, value: ArrayLike) -> jax.Array:
    array = jnp.asarray(value)
    if not is_real_dtype(array.dtype):
        raise LoggingError(f"`{name}` must be of a real dtype or bool; got {array.dtype}")
    return array


def _check_shapes(reward: tuple[int, ...], done: tuple[int, ...], num_envs: int) -> None:
    if reward == done and len(reward) in {1, 2} and reward[-1] == num_envs:
        return
    if reward != done:
        mend = "give one `done` for every reward (broadcast or index the one that is too large)"
    elif len(reward) == 2 and reward[0] == num_envs:
        mend = "if these are [num_envs, time], transpose both: time comes first"
    elif num_envs == 1 and len(reward) == 1:
        mend = "a rollout of one environment is `reward[:, None]` and `done[:, None]`"
    else:
        mend = "pass the number of environments to `init`, and all of them to every update"
    raise LoggingError(
        f"`reward` has shape {reward} and `done` has shape {done}; both must be ({num_envs},) for "
        f"a step, or (time, {num_envs}) for a rollout, since the state is one of {num_envs} "
        f"environment{'s' if num_envs > 1 else ''}. To mend it: {mend}"
    )
