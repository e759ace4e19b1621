"""Detect code that jax is tracing, and reject the construction of host objects there."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

from metriplex.errors import MetriplexError


def is_tracing() -> bool:
    """Return True inside a function that jax traces, False in eager code."""
    return _trace_state() != _eager_state()


def _trace_state() -> object:
    # The public `jax.extend.core` imports Pallas, whose settings become part of every jit cache's
    # key, so the user's programs would be compiled again.
    from jax._src.core import get_opaque_trace_state

    return get_opaque_trace_state(convention="nnx")


@functools.cache
def _eager_state() -> object:
    # A new thread is never tracing, also if the calling thread is.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(_trace_state).result()


def require_host(what: str) -> None:
    """Raise a `MetriplexError` inside a function that jax transforms."""
    if is_tracing():
        raise MetriplexError(
            f"`{what}` was constructed inside a function that jax transforms (`jit`, `scan`, "
            f"`vmap`, `grad`): construct it outside, and pass it in as an argument"
        )
