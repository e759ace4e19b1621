"""Send rows from a compiled program to the host: the device half of the bridge.

One unordered `jax.debug.callback` carries a block of rows (`metriplex.bridge.packing`), for any
number of values and vmapped lanes. The host function only enqueues the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from metriplex.bridge import receiver
from metriplex.bridge.packing import Header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


ABORTED = (
    'a NaN or an infinity was logged while `nonfinite="abort"`: the program was stopped; the tag, '
    "step and lane are in the log and in the error that `flush` and `close` raise"
)


def _enqueue_and_stop(block: jax.Array) -> None:
    receiver.enqueue(block)
    raise FloatingPointError(ABORTED)


@jax.custom_batching.custom_vmap
def _emit(block: jax.Array) -> tuple[()]:
    jax.debug.callback(receiver.enqueue, block)
    return ()


@_emit.def_vmap
def _emit_batch(_size: int, _batched: Any, block: jax.Array) -> tuple[tuple[()], tuple[()]]:
    return _emit(block), ()  # the lanes are the leading axis of the block: still one call


def _make_conditional(call: Callable[[jax.Array, jax.Array], None]) -> Callable[..., tuple[()]]:
    """Return a function of a gate and a block that calls `call` if any lane's gate is open."""

    @jax.custom_batching.custom_vmap
    def conditional(gate: jax.Array, block: jax.Array) -> tuple[()]:
        lax.cond(gate.any(), call, lambda *_: None, gate, block)
        return ()

    @conditional.def_vmap
    def _(size: int, batched: Sequence[bool], *arrays: jax.Array) -> tuple[tuple[()], tuple[()]]:
        spread = (
            array if is_batched else jnp.broadcast_to(array, (size, *array.shape))
            for array, is_batched in zip(arrays, batched, strict=True)
        )
        return conditional(*spread), ()

    return conditional


@_make_conditional
def _emit_if(gate: jax.Array, block: jax.Array) -> None:
    # Lanes with a closed gate are sent with the other lanes, marked as invalid.
    jax.debug.callback(receiver.enqueue, mark(block, gate[..., None]))


@_make_conditional
def _abort_if(_gate: jax.Array, block: jax.Array) -> None:
    # The program stops in every lane, so the rows of every lane are sent.
    jax.debug.callback(_enqueue_and_stop, block)


def mark(rows: jax.Array, valid: jax.Array) -> jax.Array:
    """Return rows, uint32 `[..., words]`, marked invalid where `valid`, bool `[...]`, is False."""
    words = lax.broadcasted_iota(jnp.int32, (1,) * valid.ndim + rows.shape[-1:], valid.ndim)
    kept = jnp.logical_or(valid[..., None], words != Header.VALID)
    # A product, as the operands of a selection must be sharded alike on an Explicit mesh.
    return rows * kept.astype(rows.dtype)


def emit(block: jax.Array, *, where: jax.Array | bool = True) -> None:
    """Send rows, uint32 `[rows, words]`, to the host, eagerly or under any transformation of jax.

    Under vmap the blocks of all lanes arrive in one call. `where` is True to send; it is a value,
    not control flow, so lanes may differ.
    """
    block = lax.stop_gradient(block)
    if isinstance(where, bool):
        if where:
            _emit(block)
    else:
        _emit_if(where, block)


def abort(block: jax.Array, *, where: jax.Array) -> None:
    """Send rows, uint32 `[rows, words]`, and stop the compiled program with a `FloatingPointError`.

    The rows are those that would be lost with the program; the host drops rows that it already has.
    Under vmap `where` of one lane suffices to abort, and the rows of all lanes are sent.
    """
    _abort_if(where, lax.stop_gradient(block))
