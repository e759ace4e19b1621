"""What one record says of many environments and devices: pure, on the device.

What is summed over the environments comes from functions of its own, so that everything in a record
that devices have to add up travels by one exchange between them.
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
    """What `averages` needs of some environments, to be added up with that of others.

    Attributes:
        finished: float32 `[]`, how many have finished an episode (as the others a float32, to be
            exchanged together).
        return_ema: float32 `[]`, their averages of the return, summed.
        length_ema: float32 `[]`, those of the length.
    """

    finished: jax.Array
    return_ema: jax.Array
    length_ema: jax.Array


@final
class WindowSums(NamedTuple):
    """What `window` adds up over environments.

    Attributes:
        count: int32 `[]`, the episodes.
        return_sum: float32 `[]`, their returns.
        length_sum: float32 `[]`, their lengths: all environments' may overflow an int32.
    """

    count: jax.Array
    return_sum: jax.Array
    length_sum: jax.Array


def summarize(
    stats: EpisodeStats, log: Mapping[str, Value], axes: tuple[str, ...], *, episode_stats: bool
) -> tuple[dict[str, Value], dict[str, jax.Array]]:
    """The values of a record, by tag.

    Args:
        stats: Of the environments of this device.
        log: The training log, by tag; its floats on the device are averaged over the axes, in
            float32 or wider.
        axes: Mapped axes over which the environments are spread.
        episode_stats: Whether the window of newest episodes is a part of it.

    Returns:
        The values, and of those that may be absent whether they are present (bool `[]`).
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


def averages(
    stats: EpisodeStats, axis_name: AxisName | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The means of the moving averages over the environments that have finished an episode.

    Args:
        stats: The state.
        axis_name: Mapped axes over which the environments are spread; the result is then that of
            all environments, and the same everywhere.

    Returns:
        The average return (float32 `[]`), the average length (float32 `[]`), and whether any
        environment has finished an episode (bool `[]`); the averages are 0 where none has.
    """
    return averages_of(total(average_sums(stats), axis_name))


def average_sums(stats: EpisodeStats) -> AverageSums:
    """What these environments add to `averages_of`."""
    present = stats.finished
    return AverageSums(
        finished=jnp.sum(present, dtype=jnp.int32).astype(jnp.float32),
        return_ema=jnp.sum(jnp.where(present, stats.return_ema, 0.0)),
        length_ema=jnp.sum(jnp.where(present, stats.length_ema, 0.0)),
    )


def averages_of(sums: AverageSums) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`averages`, from the sums over all environments."""
    divisor = jnp.maximum(sums.finished, 1)
    return sums.return_ema / divisor, sums.length_ema / divisor, sums.finished > 0


def window(stats: EpisodeStats, axis_name: AxisName | None = None) -> dict[str, jax.Array]:
    """Count, minimum, maximum and mean of the episodes finished since the last record.

    Args:
        stats: The state.
        axis_name: Mapped axes over which the environments are spread, as for `averages`.

    Returns:
        Scalars `[]`: `count` (int32), `return_min`, `return_max`, `return_mean` (float32),
        `length_min`, `length_max` (int32), `length_mean` (float32). All but `count` are present
        only where `count` is positive, and 0 where it isn't.

    Raises:
        ConfigurationError: The state was made with `window=False`.
    """
    return window_of(total(window_sums(stats), axis_name), stats, axis_name)


def window_sums(stats: EpisodeStats) -> WindowSums:
    """What these environments add to `window_of`; raises a `ConfigurationError` as `window`."""
    episodes = _window(stats)
    return WindowSums(
        count=jnp.sum(episodes.count),
        return_sum=jnp.sum(episodes.return_sum),
        length_sum=jnp.sum(episodes.length_sum.astype(jnp.float32)),
    )


def window_of(
    sums: WindowSums, stats: EpisodeStats, axis_name: AxisName | None
) -> dict[str, jax.Array]:
    """`window`, from the sums over all environments and the states of these."""
    episodes = _window(stats)
    divisor = jnp.maximum(sums.count, 1).astype(jnp.float32)
    extremes = {  # a minimum is the maximum of the negatives, so one kind of exchange will do
        "return_min": -jnp.min(episodes.return_min),
        "return_max": jnp.max(episodes.return_max),
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
