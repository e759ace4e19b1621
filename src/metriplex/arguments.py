"""Checks of what users give to a callback, with errors that say how to mend it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from metriplex.errors import ConfigurationError, LoggingError
from metriplex.finite import NonFinite
from metriplex.hparams import named_children
from metriplex.journal import FsyncPolicy
from metriplex.learning_rate import TAG, explain_unknown
from metriplex.state import Config, MetricsState
from metriplex.training_log import flatten
from metriplex.validation import (
    check_choice,
    check_count,
    check_positive,
    is_real,
)

if TYPE_CHECKING:
    from jax.typing import ArrayLike

logger = logging.getLogger("metriplex")

JOURNAL_OPTIONS = ("flush_secs", "fsync", "max_bytes")


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
    transport: Any = "callback",
    video_interval: int = 0,
) -> Config:
    """The static configuration of a callback.

    Raises:
        ConfigurationError: An argument is not usable.
    """
    return Config(
        alpha=_alpha(alpha),
        episode_stats=bool(episode_stats),
        reduce=check_choice("reduce", reduce, (None, "mean")),
        learning_rate=_hashable_rate(learning_rate),
        log_every=check_count("log_every", log_every, least=1),
        buffer=check_count("buffer", buffer, least=0),
        buffer_width=check_count("buffer_width", buffer_width, least=1),
        axis_name=_axis_name(axis_name),
        abort=check_choice("nonfinite", nonfinite, get_args(NonFinite)) == "abort",
        drain=_drains(transport, buffer, nonfinite, video_interval),
    )


def _drains(transport: Any, buffer: Any, nonfinite: Any, video_interval: int) -> bool:
    if check_choice("transport", transport, ("callback", "drain")) == "callback":
        return False
    if not buffer:
        raise ConfigurationError(
            '`transport="drain"` keeps records on the device and needs `buffer=`, at least the '
            "number of records between two calls of `drain`"
        )
    if nonfinite == "abort":
        raise ConfigurationError(
            '`nonfinite="abort"` stops the program from the host, which `transport="drain"` never '
            'calls: use `"error"`, and `flush` after `drain` raises it'
        )
    if video_interval:
        raise ConfigurationError(
            f"`video_interval={video_interval}` sends rollouts to the host, which "
            f'`transport="drain"` never does: use the default transport, or leave videos out'
        )
    return True


def check_journal(journal: Any) -> dict[str, Any] | None:
    """The options of a run's journal; None if there is to be none.

    Raises:
        ConfigurationError: They aren't usable.
    """
    if isinstance(journal, bool | np.bool_):
        return {} if journal else None
    if not isinstance(journal, Mapping) or not set(journal) <= set(JOURNAL_OPTIONS):
        raise ConfigurationError(
            f"`journal` must be True, False or a dictionary of {', '.join(JOURNAL_OPTIONS)}; got "
            f"{journal!r}"
        )
    options = dict(journal)
    if "fsync" in options:
        check_choice("fsync", options["fsync"], get_args(FsyncPolicy))
    if "max_bytes" in options:
        options["max_bytes"] = check_count("max_bytes", options["max_bytes"], least=1)
    if "flush_secs" in options:
        options["flush_secs"] = check_positive("flush_secs", options["flush_secs"])
    return options


def check_resume(resume: Any, name: Any, step: Any, journal: Any) -> None:
    """Makes sure that what is given beside `resume` fits.

    Raises:
        ConfigurationError: It doesn't.
    """
    if resume is None:
        if step is not None:
            raise ConfigurationError(
                f"`resume_step` is {step!r}, and nothing is resumed: pass `resume=` too"
            )
        return
    if name is not None:
        raise ConfigurationError(
            f"a run that is resumed keeps its name; got `name={name!r}` beside `resume`: leave it "
            f"out"
        )
    if journal is None:
        raise ConfigurationError(
            "a run is resumed by its journal; got `journal=False` beside `resume`: leave it out"
        )
    if step is not None:
        check_count("resume_step", step, least=0)


def check_video(
    *, interval: Any, num_steps: Any, width: Any, height: Any, fps: Any, mode: Any
) -> dict[str, Any]:
    """Gives back what describes the videos of a run.

    Raises:
        ConfigurationError: A value is not usable.
    """
    return {
        "interval": check_count("video_interval", interval, least=0),
        "num_steps": check_count("video_num_steps", num_steps, least=1),
        "width": check_count("video_width", width, least=1),
        "height": check_count("video_height", height, least=1),
        "fps": check_positive("video_fps", fps),
        "mode": check_choice("video_worker", mode, ("process", "thread")),
    }


def check_hparams(hparams: Any) -> Any:
    """Gives back what has names for its values; None is empty.

    Raises:
        LoggingError: It has none.
    """
    if named_children(hparams) is not None:
        return hparams
    if hparams is None:
        return {}
    raise LoggingError(
        f"`hparams` must have names for its values; got {hparams!r} of type "
        f"`{type(hparams).__name__}`: pass a dictionary, a dataclass or the like"
    )


def check_state(config: Config, state: Any) -> None:
    """Makes sure that a state is one of `init` of a callback that is configured like this one.

    Raises:
        LoggingError: It isn't.
    """
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
    """Gives back the gate of a record.

    Raises:
        LoggingError: It is not one bool.
    """
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
    """Says in the log, once, why the learning rate will be NaN, if nothing else gives it."""
    reason = explain_unknown(opt_state, given)
    if reason and TAG not in flatten(training_log, reduce="mean"):
        _log_once(reason)


@functools.cache
def _log_once(message: str) -> None:
    logger.warning("%s", message)


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


def _alpha(alpha: Any) -> float:
    if not is_real(alpha) or not 0 < alpha <= 1:
        raise ConfigurationError(
            f"`alpha` is the weight of the newest episode and must be a number in (0, 1]; got "
            f"{alpha!r}: 1 logs the newest episode alone, the default 0.9 averages a little"
        )
    return float(alpha)


def _hashable_rate(rate: Any) -> Any:
    """A rate that can be part of a static configuration: a float, or the schedule itself."""
    if callable(rate):
        try:
            hash(rate)
        except TypeError:
            return functools.partial(rate)  # equal and hashable by identity
        return rate
    if rate is None:
        return None
    if not is_real(rate) and not (_is_array(rate) and rate.size == 1 and rate.dtype.kind in "fiu"):
        raise ConfigurationError(
            f"`learning_rate` must be a number or an optax schedule; got {rate!r}: pass what the "
            f"optimizer was given, for example 3e-4 or `optax.linear_schedule(...)`"
        )
    return float(np.asarray(rate).item())


def _axis_name(axis_name: Any) -> Any:
    if axis_name is None or isinstance(axis_name, str):
        return axis_name
    if isinstance(axis_name, list | tuple) and all(isinstance(one, str) for one in axis_name):
        return tuple(axis_name)
    raise ConfigurationError(
        f"`axis_name` must be None, a string or a tuple of strings; got {axis_name!r}: pass the "
        f'name that `vmap`, `pmap` or the mesh gives the axis, for example "seeds"'
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)
