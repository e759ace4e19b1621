"""Telling the host's code from code that jax transforms."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

from metriplex.errors import MetriplexError


def is_tracing() -> bool:
    """Whether this is called inside a function that jax transforms, not eagerly."""
    return _trace_state() != _eager_state()


def _trace_state() -> object:
    # `jax.extend.core` has it publicly, but importing that brings Pallas along, whose settings
    # become part of every jit cache's key: what the user has compiled would be compiled again.
    from jax._src.core import get_opaque_trace_state

    return get_opaque_trace_state(convention="nnx")


@functools.cache
def _eager_state() -> object:
    # A new thread traces nothing, whatever the calling one does.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(_trace_state).result()


def require_host(what: str) -> None:
    """Raises a `MetriplexError` inside a function that jax transforms."""
    if is_tracing():
        raise MetriplexError(
            f"`{what}` was constructed inside a function that jax transforms (`jit`, `scan`, "
            f"`vmap`, `grad`): construct it outside, and pass it in as an argument"
        )
