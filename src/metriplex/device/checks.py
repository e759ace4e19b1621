"""Check the arguments of a callback's methods, with errors that say how to fix them."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from metriplex.device.learning_rate import TAG, explain_unknown
from metriplex.device.state import MetricsState
from metriplex.device.training_log import flatten
from metriplex.errors import LoggingError

if TYPE_CHECKING:
    from jax.typing import ArrayLike

    from metriplex.device.config import Config

logger = logging.getLogger("metriplex")


def check_state(config: Config, state: Any) -> None:
    """Raise a LoggingError unless a state comes from `init` of a callback of this configuration."""
    if not isinstance(state, MetricsState):
        raise LoggingError(
            f"`state` must be what `init` and the methods after it return; got {state!r}: start "
            f"with `state = metrics.init(num_envs)`, and carry it through the loop"
        )
    has_window = state.episodes.window is not None
    rows = jnp.shape(state.buffer)[-2]
    if (has_window, rows) != (config.episode_stats, config.buffer):
        raise LoggingError(
            f"`state` was made for `episode_stats={has_window}` and `buffer={rows}`, and this "
            f"callback has `episode_stats={config.episode_stats}` and `buffer={config.buffer}`: "
            f"take the state from `init` of this callback"
        )


def check_where(where: Any) -> jax.Array | bool:
    """Return the gate of a record, a bool or bool `[]`; raise a LoggingError for another shape."""
    if isinstance(where, bool):
        return where
    array = where if isinstance(where, jax.Array) else np.asarray(where)
    if array.shape != () or not (array.dtype == bool or jnp.issubdtype(array.dtype, jnp.number)):
        raise LoggingError(
            f"`where` must be one bool; got {array.dtype} {list(array.shape)}: compare or reduce "
            f"it, for example with `.any()`"
        )
    return jnp.asarray(array, bool)


def explain_unknown_rate(opt_state: Any, given: Any, training_log: Any) -> None:
    """Log once why the learning rate will be NaN, unless the training log contains it."""
    reason = explain_unknown(opt_state, given)
    if reason and TAG not in flatten(training_log, reduce="mean"):
        _log_once(reason)


@functools.cache
def _log_once(message: str) -> None:
    logger.warning("%s", message)


def join_ends(
    done: ArrayLike | None, terminated: ArrayLike | None, truncated: ArrayLike | None
) -> ArrayLike:
    """Return the ends of episodes, from `done` or from `terminated` and `truncated`."""
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
