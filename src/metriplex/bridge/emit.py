"""The only way from a compiled program to the host: the half of it on the device.

One unordered `jax.debug.callback` carries a block of rows (`metriplex.bridge.packing`), however many
values and vmapped lanes there are; the host function only enqueues it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
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
    return _emit(block), ()  # the lanes are in front of the block now: still one call


def _make_conditional(call: Callable[[jax.Array, jax.Array], None]) -> Callable[..., tuple[()]]:
    """A `call` with a gate and a block, made if any lane's gate is open."""

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
    # Lanes whose gate is closed travel along with the others, marked as invalid.
    jax.debug.callback(receiver.enqueue, mark(block, gate[..., None]))


@_make_conditional
def _abort_if(_gate: jax.Array, block: jax.Array) -> None:
    # No lane lives on, so no lane's rows are held back.
    jax.debug.callback(_enqueue_and_stop, block)


def mark(rows: jax.Array, valid: jax.Array) -> jax.Array:
    """Rows, uint32 `[..., words]`, of which only those stay valid that `valid`, `[...]`, names."""
    is_mark = np.arange(rows.shape[-1]) == Header.VALID
    return jnp.where(jnp.logical_or(valid[..., None], ~is_mark), rows, jnp.uint32(0))


def emit(block: jax.Array, *, where: jax.Array | bool = True) -> None:
    """Sends rows to the host; works eagerly and under every transformation of jax.

    Args:
        block: uint32 `[rows, words]`, from `metriplex.bridge.packing.pack`; under vmap the lanes' blocks
            arrive together in one call.
        where: Whether to send; data, not control flow, so it may differ from lane to lane.
    """
    block = lax.stop_gradient(block)
    if isinstance(where, bool):
        if where:
            _emit(block)
    else:
        _emit_if(where, block)


def abort(block: jax.Array, *, where: jax.Array) -> None:
    """Sends rows and stops the compiled program with a `FloatingPointError`.

    Args:
        block: uint32 `[rows, words]`: rows that would be lost with the program; the host removes
            those that it has already.
        where: Whether to do so; under vmap one lane is enough, and all lanes' rows are sent.
    """
    _abort_if(where, lax.stop_gradient(block))
