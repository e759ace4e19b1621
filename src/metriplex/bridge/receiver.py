"""The host half of the bridge: a queue of blocks, and the thread that reads them.

The receiver thread, one a process, decodes blocks (`metriplex.bridge.decode`) and passes each row to
the sink whose run handle the row carries.
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
from typing import TYPE_CHECKING, Protocol, final

import jax

from metriplex.bridge.decode import Block, of_one_shape, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metriplex.bridge.rows import Row

logger = logging.getLogger("metriplex")


class Sink(Protocol):
    """What rows are delivered to."""

    def receive(self, rows: Sequence[Row]) -> None:
        """Takes rows that carry this sink's handle, in order. The receiver thread calls."""


@final
@dataclasses.dataclass(slots=True)
class _Closed:
    """A run that was closed, and how much its programs have lost since."""

    name: str
    batches: int = 0
    rows: int = 0


LINGER = 0.02
"""Seconds that the receiver thread lets blocks gather: reading them together costs the program, which
needs the interpreter's lock for its next host call, far less than reading them one by one."""

BATCH = 256
"""How many blocks are read together at most."""

_blocks: queue.SimpleQueue[Block | threading.Event] = queue.SimpleQueue()
_sinks: dict[int, Sink] = {}
_closed: dict[int, _Closed] = {}
_handles = itertools.count(1)
_thread: threading.Thread | None = None
_hurry = threading.Event()
_start_lock = threading.Lock()


def enqueue(block: jax.Array) -> None:
    """Queue a block of rows for the receiver thread; the host function that programs call.

    jax calls it on the main thread or on threads of XLA. Reading the block here, calling jax or
    waiting can deadlock (jax issues 24255 and 25861), so the receiver thread does that.

    Args:
        block: uint32 `[*lanes, rows, words]`.
    """
    item = Block(block, time.time())
    try:
        _blocks.put(item)
    except BaseException:
        # Ctrl-C can land between any two bytecodes: the block is kept, and taken only once.
        _blocks.put(item)
        raise


def register(sink: Sink, handle: int | None = None) -> int:
    """Gives a sink the handle that rows carry in their header, and starts the receiver thread.

    Args:
        sink: What rows are delivered to.
        handle: A handle that nothing else has; None for the next one of this process.
    """
    global _thread
    with _start_lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_receive, name="metriplex-receiver", daemon=True)
            _thread.start()
    handle = next(_handles) if handle is None else handle
    _sinks[handle] = sink
    return handle


def unregister(handle: int, name: str) -> None:
    """Forgets a sink. Rows that still come for it are reported in the log under `name`."""
    if _sinks.pop(handle, None) is not None:
        _closed[handle] = _Closed(name)


def wait() -> None:
    """Waits until every row that has reached the host is with its sink. Any thread."""
    if _thread is not None and _thread.is_alive() and threading.current_thread() is not _thread:
        done = threading.Event()
        _blocks.put(done)
        _hurry.set()
        done.wait()


def deliver(blocks: Iterable[Block]) -> None:
    """Hands over blocks that came by no callback, and waits until their rows are with the sinks."""
    for block in blocks:
        _blocks.put(block)
    wait()


def barrier() -> None:
    """Waits for the programs that this thread has dispatched, then for their rows.

    `jax.effects_barrier` knows only the programs of its own thread: call this in the thread that
    dispatched them.

    Raises:
        Exception: What a failed program of this thread raises.
    """
    try:
        jax.effects_barrier()
    finally:
        wait()


def _receive() -> None:
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
    global _blocks, _thread, _hurry, _start_lock
    _blocks = queue.SimpleQueue()
    _thread = None
    _hurry = threading.Event()
    _start_lock = threading.Lock()
    _sinks.clear()


with contextlib.suppress(AttributeError):  # no fork on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
