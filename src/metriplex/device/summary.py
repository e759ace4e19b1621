"""The values of a record: reductions over environments and devices. Pure, on the device.

The sums over environments have functions of their own, so that one collective operation adds up all
sums of a record over the devices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, final

import jax
import jax.numpy as jnp
from jax import lax

from metriplex.device.axes import AxisName, highest, total
from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metriplex.bridge.packing import Value
    from metriplex.device.episodes import EpisodeStats, EpisodeWindow


@final
class AverageSums(NamedTuple):
    """Sums over the environments of one device, for `averages_of`; devices add them up.

    `finished` is the number of environments that have finished an episode; the averages are summed
    over these environments. All are float32 `[]`, so that one collective operation takes them.
    """

    finished: jax.Array
    return_ema: jax.Array
    length_ema: jax.Array


@final
class WindowSums(NamedTuple):
    """Sums over the environments of one device, for `window_of`; devices add them up.

    The count is int32 `[]`, the sums are float32 `[]`: that of the lengths may overflow an int32.
    """

    count: jax.Array
    return_sum: jax.Array
    length_sum: jax.Array


def summarize(
    stats: EpisodeStats, log: Mapping[str, Value], axes: tuple[str, ...], *, episode_stats: bool
) -> tuple[dict[str, Value], dict[str, jax.Array]]:
    """Return the values of a record by tag, and a bool `[]`, True if present, for optional tags.

    Floats of the training log that are on the device are averaged over the axes, in float32 or
    wider. `episode_stats` is True to include the window of newest episodes.
    """
    floats = {
        tag: value
        for tag, value in log.items()
        if axes and isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)
    }
    sums, newest_sums, log_sums = total(
        (
            average_sums(stats),
            window_sums(stats) if episode_stats else None,
            {tag: _widen(value) for tag, value in floats.items()},
        ),
        axes,
    )
    mean_return, mean_length, finished = averages_of(sums)
    values: dict[str, Value] = {"episode/return": mean_return, "episode/length": mean_length}
    present = dict.fromkeys(values, finished)
    if newest_sums is not None:
        newest = window_of(newest_sums, stats, axes)
        values |= {f"episode/{name}": value for name, value in newest.items()}
        some = newest["count"] > 0
        present |= {f"episode/{name}": some for name in newest if name != "count"}
    number = math.prod(lax.axis_size(axis) for axis in axes)
    means = {tag: (log_sums[tag] / number).astype(floats[tag].dtype) for tag in floats}
    return values | dict(log) | means, present


def _widen(value: jax.Array) -> jax.Array:
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))  # bfloat16 would round a sum


def average_stats(
    stats: EpisodeStats, axis_name: AxisName | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the average return and length of finished episodes, over all environments.

    Each average is the mean of `stats.return_ema` (or `stats.length_ema`) over the environments
    with `stats.finished`:

        average = sum(where(finished, ema, 0)) / max(sum(finished), 1)

    Args:
        stats: The statistics.
        axis_name: Name, or tuple of names, of the mapped axes over which the environments are
            spread. The result then covers all environments and is the same on every device.

    Returns:
        The average return (float32 `[]`), the average length (float32 `[]`) and a bool `[]` that is
        True if any environment has finished an episode. If it is False, the averages are 0.
    """
    return averages_of(total(average_sums(stats), axis_name))


def average_sums(stats: EpisodeStats) -> AverageSums:
    """Sum the moving averages over the environments of this device."""
    present = stats.finished
    return AverageSums(
        finished=jnp.sum(present, dtype=jnp.int32).astype(jnp.float32),
        return_ema=jnp.sum(jnp.where(present, stats.return_ema, 0.0)),
        length_ema=jnp.sum(jnp.where(present, stats.length_ema, 0.0)),
    )


def averages_of(sums: AverageSums) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the result of `average_stats` from the sums over all environments."""
    divisor = jnp.maximum(sums.finished, 1)
    return sums.return_ema / divisor, sums.length_ema / divisor, sums.finished > 0


def window_stats(stats: EpisodeStats, axis_name: AxisName | None = None) -> dict[str, jax.Array]:
    """Return count, minimum, maximum and mean of the episodes finished since `reset_window`.

    Each episode counts once; there is no moving average.

    Args:
        stats: The statistics.
        axis_name: Name, or tuple of names, of the mapped axes over which the environments are
            spread. The result then covers all environments and is the same on every device.

    Returns:
        Scalars `[]` by name: `count` (int32), `return_min`, `return_max`, `return_mean` (float32),
        `length_min`, `length_max` (int32), `length_mean` (float32). If `count` is 0, the others are
        0 and have no meaning.

    Raises:
        ConfigurationError: The statistics were made with `init_stats(window=False)`.
    """
    return window_of(total(window_sums(stats), axis_name), stats, axis_name)


def window_sums(stats: EpisodeStats) -> WindowSums:
    """Sum the windows over the environments of this device; raise as `window_stats`."""
    episodes = _window(stats)
    return WindowSums(
        count=jnp.sum(episodes.count),
        return_sum=jnp.sum(episodes.return_sum),
        length_sum=jnp.sum(episodes.length_sum.astype(jnp.float32)),
    )


def window_of(
    sums: WindowSums, stats: EpisodeStats, axis_name: AxisName | None
) -> dict[str, jax.Array]:
    """Return the result of `window_stats`, from global sums and from `stats` of this device."""
    episodes = _window(stats)
    divisor = jnp.maximum(sums.count, 1).astype(jnp.float32)
    known = episodes.count > 0
    extremes = {  # a minimum is the maximum of the negatives: one collective operation takes all
        "return_min": -jnp.min(jnp.where(known, episodes.return_min, jnp.inf)),
        "return_max": jnp.max(jnp.where(known, episodes.return_max, -jnp.inf)),
        "length_min": -jnp.min(episodes.length_min),
        "length_max": jnp.max(episodes.length_max),
    }
    found = highest(extremes, axis_name)

    def if_any(value: jax.Array) -> jax.Array:
        return jnp.where(sums.count > 0, value, jnp.zeros_like(value))

    return {
        "count": sums.count,
        "return_min": if_any(-found["return_min"]),
        "return_max": if_any(found["return_max"]),
        "return_mean": sums.return_sum / divisor,
        "length_min": if_any(-found["length_min"]),
        "length_max": if_any(found["length_max"]),
        "length_mean": sums.length_sum / divisor,
    }


def _window(stats: EpisodeStats) -> EpisodeWindow:
    if stats.window is None:
        raise ConfigurationError(
            "The state keeps no window of finished episodes; make it with "
            "`init_stats(num_envs, window=True)`"
        )
    return stats.window
