"""Signals that end the process or its program: SIGTERM, SIGHUP, SIGUSR1, and Ctrl-C.

A handler in Python runs only when the main thread runs Python, and that may be inside a compiled
program for hours. So a thread waits at the other end of a wake-up descriptor, to which the
interpreter's own C handler writes at once. The main thread is not stopped meanwhile, as it may hold
a lock that closing needs. A program that handles a signal by itself is left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

from metriplex.bridge import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE = 60.0
"""Seconds after which a signal ends the process even if a run can't be closed."""

_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1")
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Signals that end the process: of `kill` and schedulers, of a lost terminal, of Slurm."""

_OURS = 0x80
"""The bit of a byte that the handler writes itself, where an event loop has the descriptor."""

_terminating = threading.Event()
_sender: int | None = None


def hold_if_terminating() -> None:
    """Hold the main thread once a signal was received: the process ends before it goes on."""
    if _terminating.is_set() and threading.current_thread() is threading.main_thread():
        threading.Event().wait()


def watch(close: Callable[[], object]) -> None:
    """Have `close` called when a signal is to end the process, and programs stopped by Ctrl-C.

    Only the main thread can do that: if it never calls, a signal costs the records since the last
    flush.
    """
    global _sender
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        return
    if _sender is None:
        read_end, _sender = os.pipe()
        os.set_blocking(_sender, False)
        threading.Thread(
            target=_wait, args=(read_end, close), name="metriplex-signals", daemon=True
        ).start()
    previous = signal.set_wakeup_fd(_sender, warn_on_full_buffer=False)
    if previous not in (-1, _sender):  # an event loop's: its main thread runs Python often enough
        signal.set_wakeup_fd(previous)
    for one in ENDING:
        if _would_end_process(one):
            signal.signal(one, _on_signal)


def _would_end_process(number: signal.Signals) -> bool:
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    with contextlib.suppress(Exception):  # Python does not know handlers of C, such as jax's own
        import ctypes

        action = (ctypes.c_void_p * 64)()  # more than `struct sigaction`; the handler comes first
        known = ctypes.CDLL(None).sigaction(number.value, None, action) == 0
        return not (known and action[0])
    return True


def _on_signal(number: int, _frame: object) -> None:
    sender = _sender
    if sender is not None:
        with contextlib.suppress(OSError):
            os.write(sender, bytes([_OURS | number]))


def _wait(read_end: int, close: Callable[[], object]) -> None:
    while True:
        received = os.read(read_end, 64)
        if signal.SIGINT in received and (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            interrupts.notice()
        ending = next(filter(lambda one: _is_ending(one, received), ENDING), None)
        if ending is not None:
            break
    _terminating.set()
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(GRACE)
    _die(ending)


def _is_ending(number: signal.Signals, received: bytes) -> bool:
    # A handler that the program has set since then takes precedence, unless it calls ours.
    ours = signal.getsignal(number) is _on_signal
    return _OURS | number in received or (number in received and ours)


def _die(number: signal.Signals) -> None:
    """End the process as a signal does by default; for threads that may not set handlers."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).signal(number.value, None)
        signal.raise_signal(number)
    os._exit(128 + number)


# ---- fork ---------------------------------------------------------------------------------------
#
# A forked child must neither close its parent's runs nor catch its own signals, nor report them to
# the parent through the descriptor that both have. They are blocked until the child has reset all
# that; the registry's own hook, which runs before the one here, has then forgotten the runs.

_masks = threading.local()


def _before_fork() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _after_fork_in_child() -> None:
    global _sender, _terminating
    _terminating = threading.Event()
    if _sender is not None:
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor not in (-1, _sender):
            signal.set_wakeup_fd(descriptor)
        for one in ENDING:
            if signal.getsignal(one) is _on_signal:
                signal.signal(one, signal.SIG_DFL)
        _sender = None
    _after_fork()


if hasattr(os, "register_at_fork"):  # no fork on Windows
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork_in_child,
    )
