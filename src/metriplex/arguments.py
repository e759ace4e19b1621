"""Checks of what users give to a callback, with errors that say how to mend it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, get_args

import jax.numpy as jnp

from metriplex.errors import ConfigurationError, LoggingError
from metriplex.run import NonFinite
from metriplex.state import Config

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def make_config(
    *,
    alpha: Any,
    episode_stats: bool,
    reduce: Any,
    learning_rate: Any,
    log_every: Any,
    buffer: Any,
    buffer_width: Any,
    axis_name: Any,
    nonfinite: Any,
) -> Config:
    """The static configuration of a callback.

    Raises:
        ConfigurationError: An argument is not usable.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= 1:
        raise ConfigurationError(
            f"`alpha` is the weight of the newest episode and must be in (0, 1]; got {alpha!r}"
        )
    if reduce not in (None, "mean"):
        raise ConfigurationError(f'`reduce` must be None or "mean"; got {reduce!r}')
    if nonfinite not in get_args(NonFinite):
        raise ConfigurationError(
            f"`nonfinite` must be one of {get_args(NonFinite)}; got {nonfinite!r}"
        )
    return Config(
        alpha=float(alpha),
        episode_stats=bool(episode_stats),
        reduce=reduce,
        learning_rate=_hashable_rate(learning_rate),
        log_every=check_count("log_every", log_every, least=1),
        buffer=check_count("buffer", buffer, least=0),
        buffer_width=check_count("buffer_width", buffer_width, least=1),
        axis_name=_axis_name(axis_name),
        abort=nonfinite == "abort",
    )


def check_count(name: str, value: Any, *, least: int) -> int:
    """Gives back an int that is large enough.

    Raises:
        ConfigurationError: It isn't.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"`{name}` must be an int of at least {least}; got {value!r}")
    return value


def _hashable_rate(rate: Any) -> Any:
    """A rate that can be part of a static configuration: a float, or the schedule itself."""
    if rate is None or callable(rate):
        return rate
    try:
        return float(rate)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"`learning_rate` must be a number or an optax schedule; got {rate!r}"
        ) from error


def _axis_name(axis_name: Any) -> Any:
    if axis_name is None or isinstance(axis_name, str):
        return axis_name
    if isinstance(axis_name, list | tuple) and all(isinstance(one, str) for one in axis_name):
        return tuple(axis_name)
    raise ConfigurationError(
        f"`axis_name` must be None, a string or a tuple of strings; got {axis_name!r}"
    )


def join_ends(
    done: ArrayLike | None, terminated: ArrayLike | None, truncated: ArrayLike | None
) -> ArrayLike:
    """Where episodes end, told by `done` or by `terminated` and `truncated`.

    Raises:
        LoggingError: Both or neither were given, or shapes differ.
    """
    parts = [part for part in (terminated, truncated) if part is not None]
    if (done is None) == (not parts):
        given = "both" if parts else "neither"
        raise LoggingError(
            f"`on_step` got {given} of `done` and `terminated`/`truncated`: pass `done`, or "
            f"`terminated` and `truncated` (or one of them)"
        )
    if done is not None:
        return done
    shapes = [list(jnp.shape(part)) for part in parts]
    if shapes[0] != shapes[-1]:
        raise LoggingError(
            f"`terminated` has shape {shapes[0]} and `truncated` {shapes[-1]}: both must have the "
            f"shape of `reward`"
        )
    return functools.reduce(jnp.logical_or, parts)
