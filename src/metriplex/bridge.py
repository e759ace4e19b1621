"""The only way from a compiled program to the host.

One unordered `jax.debug.callback` carries a block of rows (`metriplex.packing`), however many
values and vmapped lanes there are; the host function only enqueues it. A drain thread, one a
process, decodes blocks and hands their rows to the sink that the row's run handle names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metriplex.blocks import Block, of_one_shape, read
from metriplex.packing import Header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metriplex.sequence import Row

logger = logging.getLogger("metriplex")

ABORTED = (
    'a NaN or an infinity was logged while `nonfinite="abort"`: the program was stopped; the tag, '
    "step and lane are in the log and in the error that `flush` and `close` raise"
)


class Sink(Protocol):
    """What rows are delivered to."""

    def receive(self, rows: Sequence[Row]) -> None:
        """Takes rows that carry this sink's handle, in order. The drain thread calls."""


@final
@dataclasses.dataclass(slots=True)
class _Closed:
    """A run that was closed, and how much its programs have lost since."""

    name: str
    batches: int = 0
    rows: int = 0


LINGER = 0.02
"""Seconds that the drain thread lets blocks gather: reading them together costs the program, which
needs the interpreter's lock for its next host call, far less than reading them one by one."""

BATCH = 256
"""How many blocks are read together at most."""

_blocks: queue.SimpleQueue[Block | threading.Event] = queue.SimpleQueue()
_sinks: dict[int, Sink] = {}
_closed: dict[int, _Closed] = {}
_handles = itertools.count(1)
_drain: threading.Thread | None = None
_hurry = threading.Event()
_start_lock = threading.Lock()


# ---- on the device ------------------------------------------------------------------------------


def _receive(block: jax.Array) -> None:
    """The host function: it only enqueues.

    jax calls it on the main thread or on threads of XLA. Reading the block here, calling jax or
    waiting can deadlock (jax issues 24255 and 25861), so the drain thread does that.
    """
    item = Block(block, time.time())
    try:
        _blocks.put(item)
    except BaseException:
        # Ctrl-C can land between any two bytecodes: the block is kept, and taken only once.
        _blocks.put(item)
        raise


def _receive_and_stop(block: jax.Array) -> None:
    _receive(block)
    raise FloatingPointError(ABORTED)


@jax.custom_batching.custom_vmap
def _emit(block: jax.Array) -> tuple[()]:
    jax.debug.callback(_receive, block)
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
    jax.debug.callback(_receive, mark(block, gate[..., None]))


@_make_conditional
def _abort_if(_gate: jax.Array, block: jax.Array) -> None:
    # No lane lives on, so no lane's rows are held back.
    jax.debug.callback(_receive_and_stop, block)


def mark(rows: jax.Array, valid: jax.Array) -> jax.Array:
    """Rows, uint32 `[..., words]`, of which only those stay valid that `valid`, `[...]`, names."""
    is_mark = np.arange(rows.shape[-1]) == Header.VALID
    return jnp.where(jnp.logical_or(valid[..., None], ~is_mark), rows, jnp.uint32(0))


def emit(block: jax.Array, *, where: jax.Array | bool = True) -> None:
    """Sends rows to the host; works eagerly and under every transformation of jax.

    Args:
        block: uint32 `[rows, words]`, from `metriplex.packing.pack`; under vmap the lanes' blocks
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


# ---- on the host --------------------------------------------------------------------------------


def register(sink: Sink, handle: int | None = None) -> int:
    """Gives a sink the handle that rows carry in their header, and starts the drain thread.

    Args:
        sink: What rows are delivered to.
        handle: A handle that nothing else has; None for the next one of this process.
    """
    global _drain
    with _start_lock:
        if _drain is None or not _drain.is_alive():
            _drain = threading.Thread(target=_run_drain, name="metriplex-drain", daemon=True)
            _drain.start()
    handle = next(_handles) if handle is None else handle
    _sinks[handle] = sink
    return handle


def unregister(handle: int, name: str) -> None:
    """Forgets a sink. Rows that still come for it are reported in the log under `name`."""
    if _sinks.pop(handle, None) is not None:
        _closed[handle] = _Closed(name)


def drain() -> None:
    """Waits until every row that has reached the host is with its sink. Any thread."""
    if _drain is not None and _drain.is_alive() and threading.current_thread() is not _drain:
        done = threading.Event()
        _blocks.put(done)
        _hurry.set()
        done.wait()


def deliver(blocks: Iterable[Block]) -> None:
    """Hands over blocks that came by no callback, and waits until their rows are with the sinks."""
    for block in blocks:
        _blocks.put(block)
    drain()


def barrier() -> None:
    """Waits for the programs that this thread has dispatched, then drains.

    `jax.effects_barrier` knows only the programs of its own thread: call this in the thread that
    dispatched them.

    Raises:
        Exception: What a failed program of this thread raises.
    """
    try:
        jax.effects_barrier()
    finally:
        drain()


def _run_drain() -> None:
    while True:
        items = [_blocks.get()]
        if _blocks.empty():
            _hurry.wait(LINGER)
        _hurry.clear()
        with contextlib.suppress(queue.Empty):
            while len(items) < BATCH:
                items.append(_blocks.get_nowait())
        fresh: list[Block] = []
        waiting: list[threading.Event] = []
        for item in items:
            if isinstance(item, threading.Event):
                waiting.append(item)
            elif not item.taken:
                item.taken = True
                fresh.append(item)
        for blocks in of_one_shape(fresh):
            _deliver(blocks)
        for done in waiting:
            done.set()


def _deliver(blocks: list[Block]) -> None:
    try:
        runs = read(blocks)
    except BaseException:  # nothing ends this thread: every run of the process depends on it
        if len(blocks) > 1:
            for block in blocks:
                _deliver([block])
        else:
            logger.exception("metriplex could not read a block of rows; it is lost")
        return
    for run, rows in runs:
        _hand_over(run, rows)


def _hand_over(handle: int, rows: list[Row]) -> None:
    sink = _sinks.get(handle)
    if sink is not None:
        try:
            sink.receive(rows)
        except BaseException:  # the rows of other sinks may be in the same block
            logger.exception("a sink of metriplex could not take %d row(s)", len(rows))
    elif (closed := _closed.get(handle)) is not None:
        closed.batches += 1
        closed.rows += len(rows)
        if closed.batches & (closed.batches - 1) == 0:  # 1, 2, 4, ...: a long program floods no log
            logger.error(
                "run `%s` is closed, yet its program goes on logging: %d row(s) are lost so far, "
                "the last one of step %d; close the run after the program has ended, and "
                "construct a new callback for each run instead of closing over an old one",
                closed.name,
                closed.rows,
                rows[-1].step,
            )


def _forget_in_child() -> None:
    """A forked child has none of the parent's threads: it must not wait for them, nor log."""
    global _blocks, _drain, _hurry, _start_lock
    _blocks = queue.SimpleQueue()
    _drain = None
    _hurry = threading.Event()
    _start_lock = threading.Lock()
    _sinks.clear()


with contextlib.suppress(AttributeError):  # no fork on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
