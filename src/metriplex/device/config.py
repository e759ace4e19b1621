"""Define and check the static configuration of a callback, which shapes the compiled program."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import jax
import numpy as np

from metriplex.bridge.ffi_handlers import Transport, explain_unusable
from metriplex.device.learning_rate import GivenRate  # noqa: TC001 - part of public annotations
from metriplex.errors import ConfigurationError
from metriplex.validation import check_choice, check_count, is_real

if TYPE_CHECKING:
    from metriplex.device.axes import AxisName


@final
@dataclass(frozen=True)
class Config:
    """The static configuration of a callback. Equal configurations share a compiled program.

    Attributes:
        alpha: Weight of the newest episode in the averages.
        episode_stats: True to log count, minimum, maximum and mean of the newest episodes.
        reduce: Reduction of arrays in the training log; None makes them errors.
        learning_rate: The rate, or a schedule, for optimizer states that hold no rate.
        log_every: Iterations between two records.
        buffer: Rows that are kept on the device before they are sent; 0 sends each at once.
        buffer_width: Words available to a buffered row.
        axis_name: Mapped axes over which the environments are spread; None for all axes of
            `shard_map` or `pmap`.
        abort: True if a NaN or an infinity stops the program.
        transport: The way of rows to the host.
        first_step: Environment steps taken before the first one of the program.
        first_iteration: Index of the first training iteration.
    """

    alpha: float = 0.9
    episode_stats: bool = False
    reduce: Literal["mean"] | None = None
    learning_rate: GivenRate | None = None
    log_every: int = 1
    buffer: int = 0
    buffer_width: int = 64
    axis_name: AxisName | None = None
    abort: bool = False
    transport: Literal["auto", "ffi", "callback", "drain"] = "auto"
    first_step: int = 0
    first_iteration: int = 0

    @property
    def ring(self) -> bool:
        """True if rows stay in the buffer, a ring, until the host takes them."""
        return self.transport == "drain"

    @property
    def calls(self) -> Transport:
        """The kind of the calls of the host."""
        return "auto" if self.transport == "drain" else self.transport


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
    abort: bool,
    transport: Any = "auto",
    video_interval: int = 0,
) -> Config:
    """Return a static configuration; raise a ConfigurationError for an invalid argument."""
    return Config(
        alpha=_alpha(alpha),
        episode_stats=bool(episode_stats),
        reduce=check_choice("reduce", reduce, (None, "mean")),
        learning_rate=_hashable_rate(learning_rate),
        log_every=check_count("log_every", log_every, least=1),
        buffer=check_count("buffer", buffer, least=0),
        buffer_width=check_count("buffer_width", buffer_width, least=1),
        axis_name=_axis_name(axis_name),
        abort=abort,
        transport=_transport(transport, buffer, video_interval, abort=abort),
    )


def _transport(transport: Any, buffer: Any, video_interval: int, *, abort: bool) -> Any:
    check_choice("transport", transport, ("auto", "ffi", "callback", "drain"))
    if transport == "ffi" and (reason := explain_unusable()) is not None:
        raise ConfigurationError(
            f'`transport="ffi"` can\'t serve with this jaxlib ({reason}): pass `"auto"`, which '
            f"takes callbacks of jax then"
        )
    if transport != "drain":
        return transport
    if not buffer:
        raise ConfigurationError(
            '`transport="drain"` keeps records on the device and needs `buffer=`, at least the '
            "number of records between two calls of `drain`"
        )
    if abort:
        raise ConfigurationError(
            '`nonfinite="abort"` stops the program from the host, which `transport="drain"` never '
            'calls: use `"error"`, and `flush` after `drain` raises it'
        )
    if video_interval:
        raise ConfigurationError(
            f"`video_interval={video_interval}` sends rollouts to the host, which "
            f'`transport="drain"` never does: use the default transport, or leave videos out'
        )
    return transport


def _alpha(alpha: Any) -> float:
    if not is_real(alpha) or not 0 < alpha <= 1:
        raise ConfigurationError(
            f"`alpha` is the weight of the newest episode and must be a number in (0, 1]; got "
            f"{alpha!r}: 1 logs the newest episode alone, the default 0.9 averages a little"
        )
    return float(alpha)


def _hashable_rate(rate: Any) -> Any:
    """Return a rate as a float, or a schedule in a hashable form."""
    if callable(rate):
        try:
            hash(rate)
        except TypeError:
            return functools.partial(rate)  # hashable, and equal only to itself
        return rate
    if rate is None:
        return None
    is_array = isinstance(rate, jax.Array | np.ndarray)
    if not is_real(rate) and not (is_array and rate.size == 1 and rate.dtype.kind in "fiu"):
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
