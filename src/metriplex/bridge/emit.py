"""Send rows from a compiled program to the host: the device half of the bridge.

One call carries a block of rows (`metriplex.bridge.packing`), for any number of values and vmapped
lanes: on a CPU a call of an FFI handler (`metriplex.bridge.ffi`), elsewhere an unordered
`jax.debug.callback`. The host's function only enqueues the block.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from metriplex.bridge import ffi, receiver
from metriplex.bridge.ffi_handlers import serves
from metriplex.bridge.packing import Header
from metriplex.bridge.stop import ABORT, INTERRUPT, stop, stop_by_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metriplex.bridge.ffi_handlers import Transport


def _send(block: jax.Array, *, by_ffi: bool) -> None:
    if by_ffi:
        lax.platform_dependent(block, cpu=_send_by_ffi, default=_send_by_callback)
    else:
        _send_by_callback(block)


def _send_by_callback(block: jax.Array) -> None:
    jax.debug.callback(receiver.enqueue, block)


def _send_by_ffi(block: jax.Array) -> None:
    mesh = jax.sharding.get_abstract_mesh()
    if 0 < len(mesh.manual_axes) < len(mesh.axis_names):
        _send_by_callback(block)  # as jax sends a block of several devices once
        return
    result = ffi.push(block, own=bool(mesh.manual_axes))
    # The branch is hardly ever taken. XLA keeps the call for it, and jax waits for its effect.
    lax.cond(
        result == ffi.TAKEN,
        lambda *_: None,
        lambda block, result: stop(block, INTERRUPT, result),
        block,
        result,
    )


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


@functools.cache
def _emit(*, by_ffi: bool) -> Callable[[jax.Array], tuple[()]]:
    """Return the function that sends a block; one a kind of call, as jax caches by function."""

    @jax.custom_batching.custom_vmap
    def emit_block(block: jax.Array) -> tuple[()]:
        _send(block, by_ffi=by_ffi)
        return ()

    @emit_block.def_vmap
    def _(_size: int, _batched: Any, block: jax.Array) -> tuple[tuple[()], tuple[()]]:
        return emit_block(block), ()  # the lanes lead the axes of the block: still one call

    return emit_block


@functools.cache
def _emit_if(*, by_ffi: bool) -> Callable[..., tuple[()]]:
    """Return the function that sends a block if any lane's gate is open."""
    # Lanes with a closed gate are sent with the other lanes, marked as invalid.
    return _make_conditional(lambda gate, block: _send(mark(block, gate[..., None]), by_ffi=by_ffi))


@functools.cache
def _abort_if(*, by_ffi: bool) -> Callable[..., tuple[()]]:
    """Return the function that sends a block and stops the program if any lane's gate is open."""

    # The program stops in every lane, so the rows of every lane are sent.
    def call(_gate: jax.Array, block: jax.Array) -> None:
        by_callback = functools.partial(stop_by_callback, target=ABORT)
        if by_ffi:
            by_handler = functools.partial(stop, target=ABORT)
            lax.platform_dependent(block, cpu=by_handler, default=by_callback)
        else:
            by_callback(block)

    return _make_conditional(call)


def mark(rows: jax.Array, valid: jax.Array) -> jax.Array:
    """Return rows, uint32 `[..., words]`, marked invalid where `valid`, bool `[...]`, is False."""
    words = lax.broadcasted_iota(jnp.int32, (1,) * valid.ndim + rows.shape[-1:], valid.ndim)
    kept = jnp.logical_or(valid[..., None], words != Header.VALID)
    # A product, as the operands of a selection must be sharded alike on an Explicit mesh.
    return rows * kept.astype(rows.dtype)


def emit(
    block: jax.Array, *, where: jax.Array | bool = True, transport: Transport = "auto"
) -> None:
    """Send rows, uint32 `[rows, words]`, to the host, eagerly or under any transformation of jax.

    Under vmap the blocks of all lanes arrive in one call. `where` is True to send; it is a value,
    not control flow, so lanes may differ.
    """
    block = lax.stop_gradient(block)
    if isinstance(where, bool):
        if where:
            _emit(by_ffi=serves(transport))(block)
    else:
        _emit_if(by_ffi=serves(transport))(where, block)


def abort(block: jax.Array, *, where: jax.Array, transport: Transport = "auto") -> None:
    """Send rows, uint32 `[rows, words]`, and stop the compiled program with an error.

    The rows are those that would be lost with the program; the host drops rows that it already has.
    Under vmap `where` of one lane suffices to abort, and the rows of all lanes are sent.
    """
    _abort_if(by_ffi=serves(transport))(where, lax.stop_gradient(block))
