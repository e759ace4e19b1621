"""Run the code of metriplex under rules of its own, whatever strictness the user asks jax for.

A user's flags are for the user's code. Values and transfers here are explicit by construction: each
has its dtype, and its shape by broadcasting that is meant.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jax
from jax._src import config  # the public API sets these flags for all threads only

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def own_rules() -> Generator[None]:
    """Allow broadcasting, promotion, transfers and NaN of metriplex's own. This thread alone."""
    with (
        _without_error_checks(),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ):
        yield


@contextlib.contextmanager
def _without_error_checks() -> Generator[None]:
    """Record no error of metriplex's own; the checks would also write from inside `vmap`."""
    with contextlib.ExitStack() as stack:
        for kind in ("nan", "divide", "oob"):
            flag: Any = getattr(config, f"error_checking_behavior_{kind}", contextlib.nullcontext)
            stack.enter_context(flag("ignore"))
        yield


def guards_transfers() -> bool:
    """Return True if jax is to log or refuse some transfers from the host to a device."""
    config: Any = jax.config
    levels = (config.jax_transfer_guard, config.jax_transfer_guard_host_to_device)
    return any(level not in {None, "allow"} for level in levels)


def under_own_rules(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that runs under `own_rules`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with own_rules():
            return function(*args, **kwargs)

    return call
