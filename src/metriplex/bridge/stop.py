"""Stop a compiled program: the primitive that ends it with an error, after its rows are sent.

On one device of a CPU a call of an FFI handler returns the error to XLA. A program with a callback
of jax could not be kept in jax's persistent compilation cache, so it holds one only where the FFI
can't serve: on other platforms, and in programs of several devices, where jax alone knows how to
annotate a call that has an effect.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax._src.core import Primitive  # `jax.extend.core` imports Pallas, which changes cache keys
from jax.interpreters import mlir

from metriplex.bridge import ffi, receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ABORTED = (
    'a NaN or an infinity was logged while `nonfinite="abort"`: the program was stopped; the tag, '
    "step and lane are in the log and in the error that `flush` and `close` raise"
)

INTERRUPT = "metriplex_stop_after_interrupt"
ABORT = "metriplex_stop_after_nonfinite"
MESSAGES = {
    INTERRUPT: "KeyboardInterrupt, or what a signal handler raised, has stopped the program",
    ABORT: ABORTED,
}
"""The message of the error, by the target that returns it, if the host gives no other."""


def _interrupt(block: jax.Array, known: jax.Array) -> None:
    if int(known) != ffi.STOP:
        receiver.enqueue(block)
    raise KeyboardInterrupt


def _abort(block: jax.Array, _known: jax.Array) -> None:
    receiver.enqueue(block)
    raise FloatingPointError(ABORTED)


_HOSTS: dict[str, Callable[[jax.Array, jax.Array], None]] = {INTERRUPT: _interrupt, ABORT: _abort}


def stop(block: jax.Array, target: str, known: jax.Array | None = None) -> None:
    """End the program that reaches this with an error, and send a block, uint32 `[...]`.

    Args:
        block: The rows. Those that the host has already are dropped there.
        target: `INTERRUPT` or `ABORT`.
        known: uint32 `[]`, the result of the call that has sent the block; None if none has.
    """
    known = jnp.uint32(ffi.UNKNOWN) if known is None else known
    _stop_p.bind(block, known, target=target)


def stop_by_callback(block: jax.Array, target: str, known: jax.Array | None = None) -> None:
    """Do what `stop` does, by a callback of jax."""
    known = jnp.uint32(ffi.UNKNOWN) if known is None else known
    jax.debug.callback(_HOSTS[target], block, known)


@functools.cache
def _debug_effect() -> Any:
    # With jax's own effect the call is neither removed nor moved, and jax waits for the program.
    (effect,) = jax.make_jaxpr(lambda: jax.debug.callback(lambda: None))().effects
    return effect


def _evaluate_types(_block: Any, _known: Any, *, target: str) -> tuple[list[Any], set[Any]]:
    del target
    return [], {_debug_effect()}


def _call(block: jax.Array, known: jax.Array, *, target: str) -> list[Any]:
    _HOSTS[target](block, known)
    return []


def _lower(context: Any, block: Any, known: Any, *, target: str) -> Sequence[Any]:
    if getattr(context.module_context.axis_context, "num_devices", 0) == 1:
        return jax.ffi.ffi_lowering(target, has_side_effect=True)(context, block, known)
    return _lower_callback(context, block, known, target=target)


def _call_back(block: jax.Array, known: jax.Array, *, target: str) -> tuple[()]:
    stop_by_callback(block, target, known)
    return ()


_lower_callback = mlir.lower_fun(_call_back, multiple_results=True)

_stop_p = Primitive("metriplex_stop")
_stop_p.multiple_results = True
_stop_p.def_effectful_abstract_eval(_evaluate_types)
_stop_p.def_impl(_call)  # for `jax.disable_jit`
mlir.register_lowering(_stop_p, _lower, platform="cpu")
