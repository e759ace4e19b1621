"""The host half of the bridge: a queue of blocks, and the receiver thread that reads them.

The receiver thread, one a process, decodes blocks (`metriplex.bridge.decode`) and passes each row
to the sink that `metriplex.bridge.registry` has under its handle.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING

import jax

from metriplex.bridge import registry
from metriplex.bridge.decode import Block, read
from metriplex.bridge.interrupts import INTERRUPTED, describe, must_stop
from metriplex.bridge.numbers import first
from metriplex.bridge.strictness import under_own_rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metriplex.bridge.registry import Close, Sink
    from metriplex.bridge.rows import Rows

logger = logging.getLogger("metriplex")


LINGER = 0.02
"""Seconds that the receiver thread lets blocks gather. The program needs the interpreter's lock for
its next host call, and reading blocks together costs it far less than reading them one by one."""

BATCH = 256
"""Most blocks that are read together."""

_blocks: queue.SimpleQueue[Block | threading.Event] = queue.SimpleQueue()
_thread: threading.Thread | None = None
_awaited = threading.Event()
_start_lock = threading.Lock()


def enqueue(block: jax.Array) -> None:
    """Queue a block, uint32 `[*lanes, rows, words]`; the host function that programs call.

    jax calls it on the main thread or on threads of XLA. Reading the block here, calling jax or
    waiting can deadlock (jax issues 24255 and 25861), so the receiver thread does that. Raise
    `KeyboardInterrupt`, which ends the program, if the main thread can't take notice of Ctrl-C.
    """
    item = Block(block, time.time())
    try:
        _blocks.put(item)
    except BaseException:
        # A signal can land between any two bytecodes: the block is kept, and taken only once.
        _blocks.put(item)
        raise
    if must_stop():
        raise KeyboardInterrupt


def push(words: bytes, shape: tuple[int, ...], execution: int | None, device: int) -> str | None:
    """Queue a block as `enqueue` does; the function that FFI handlers call.

    Args:
        words: uint32, as bytes.
        shape: `[*lanes, rows, words]`.
        execution: The number of the execution whose devices all send this block; None if each
            device has its own.
        device: The number of the device.

    Returns:
        Why the program is to be stopped; None if it is to go on.
    """
    item = Block(words, time.time(), execution, device, shape)
    try:
        _blocks.put(item)
        return INTERRUPTED if must_stop() else None
    except BaseException as error:  # noqa: BLE001 - Ctrl-C, or of a signal handler of the user's
        _blocks.put(item)
        return describe(error)


def register(sink: Sink, handle: int | None = None, close: Close | None = None) -> int:
    """Register a sink, as `registry.add` does, and start the receiver thread."""
    global _thread
    with _start_lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_receive, name="metriplex-receiver", daemon=True)
            _thread.start()
    return registry.add(sink, handle, close)


def wait() -> None:
    """Wait until every row that has reached the host is with its sink. Any thread."""
    if _thread is not None and _thread.is_alive() and threading.current_thread() is not _thread:
        done = threading.Event()
        _blocks.put(done)
        _awaited.set()
        done.wait()


def deliver(blocks: Iterable[Block]) -> None:
    """Queue blocks that came by no callback, and wait until their rows are with the sinks."""
    for block in blocks:
        _blocks.put(block)
    wait()


def barrier() -> None:
    """Wait for the programs that this thread has dispatched, then for their rows.

    `jax.effects_barrier` knows only the programs of its own thread: call this in the thread that
    dispatched them. Raises the error of a failed program of this thread.
    """
    try:
        jax.effects_barrier()
    finally:
        wait()


@under_own_rules
def _receive() -> None:
    while True:
        items = [_blocks.get()]
        if _blocks.empty():
            _awaited.wait(LINGER)
        _awaited.clear()
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
                if _is_first_copy(item):
                    fresh.append(item)
        if fresh:
            _deliver(fresh)
        for done in waiting:
            done.set()


_senders: collections.OrderedDict[int, int] = collections.OrderedDict()
"""Execution to the device whose blocks are taken."""


def _is_first_copy(block: Block) -> bool:
    """Return False for a block that another device of the same execution sends too."""
    if block.execution is None:
        return True
    return first(_senders, block.execution, block.device) == block.device


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


def _hand_over(handle: int, rows: Rows) -> None:
    entry = registry.get(handle)
    if entry is None:  # of another process, or of the parent of a forked one
        return
    if entry.sink is not None:
        try:
            entry.sink.receive(rows)
        except BaseException:  # the rows of other sinks may be in the same block
            logger.exception("a sink of metriplex could not take %d row(s)", len(rows))
        return
    if entry.stopped:  # nobody could have closed the run later
        return
    entry.lost_batches += 1
    entry.lost_rows += len(rows)
    if entry.lost_batches & (entry.lost_batches - 1) == 0:  # 1, 2, 4, ...: does not flood the log
        logger.error(
            "run `%s` is closed, yet its program goes on logging: %d row(s) are lost so far, "
            "the last one of step %d; close the run after the program has ended, and "
            "construct a new callback for each run instead of closing over an old one",
            entry.name,
            entry.lost_rows,
            rows[-1].step,
        )


def _forget_in_child() -> None:
    """A forked child has no receiver thread: it must not wait for the one of its parent."""
    global _blocks, _thread, _awaited, _start_lock
    _blocks = queue.SimpleQueue()
    _thread = None
    _awaited = threading.Event()
    _start_lock = threading.Lock()


with contextlib.suppress(AttributeError):  # no fork on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
