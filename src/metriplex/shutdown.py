"""What happens to open runs when the process ends: by exit, by an exception, by SIGTERM."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TypeAlias

logger = logging.getLogger("metriplex")


Close: TypeAlias = Callable[[str, bool], None]
"""Closes a run: its status, and whether its program may still run and is not to be waited for."""

_open: dict[int, Close] = {}
_lock = threading.Lock()
_watching = False


def watch(handle: int, close: Close) -> None:
    """Has a run closed at the end of the process, should it still be open then."""
    with _lock:
        if not _open:
            _watch_sigterm()
        _open[handle] = close


def unwatch(handle: int) -> None:
    """Forgets a run that was closed."""
    with _lock:
        _open.pop(handle, None)


def close_all(status: str, *, running: bool) -> None:
    """Closes every open run; whatever one of them raises is logged and keeps no other one open."""
    with _lock:
        closes = list(_open.values())
    for close in closes:
        try:
            close(status, running)
        except Exception:
            logger.exception("a run could not be closed properly at the end of the process")


def _at_exit() -> None:
    uncaught = getattr(sys, "last_value", None)
    interrupted = isinstance(uncaught, KeyboardInterrupt)
    status = "interrupted" if interrupted else "failed" if uncaught is not None else "finished"
    close_all(status, running=False)


def _watch_sigterm() -> None:
    """Saves what was logged when SIGTERM would end the process; it then ends it all the same.

    A handler in Python runs only when the main thread runs Python, and that may be inside a
    compiled program for hours. So a thread waits at the other end of a wake-up file descriptor, to
    which the interpreter's own C handler writes at once. A program that handles SIGTERM by itself,
    or that is not in the main thread, is left alone.
    """
    global _watching
    is_main = threading.current_thread() is threading.main_thread()
    if _watching or not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    if previous != -1:  # an event loop owns it
        signal.set_wakeup_fd(previous)
        receiver.close()
        sender.close()
        return
    _watching = True
    signal.signal(signal.SIGTERM, _hold)
    threading.Thread(
        target=_wait_for_sigterm, args=(receiver, sender), name="metriplex-sigterm", daemon=True
    ).start()


def _hold(_signal: int, _frame: object) -> None:
    """Keeps the main thread from going on while the thread below ends the process."""
    threading.Event().wait()


def _wait_for_sigterm(receiver: socket.socket, _sender: socket.socket) -> None:
    # A handler that the program has set since then takes precedence.
    while signal.SIGTERM not in receiver.recv(64) or signal.getsignal(signal.SIGTERM) is not _hold:
        pass
    try:
        close_all("interrupted", running=True)
    finally:
        # The default action, from a thread that may not call `signal.signal`.
        with contextlib.suppress(Exception):
            ctypes.CDLL(None).signal(signal.SIGTERM.value, None)
        os.kill(os.getpid(), signal.SIGTERM)


def _forget_in_child() -> None:
    """A forked child must neither close its parent's runs nor catch its own SIGTERM."""
    global _watching
    _open.clear()
    if _watching and signal.getsignal(signal.SIGTERM) is _hold:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _watching = False


with contextlib.suppress(AttributeError):  # no fork on Windows
    os.register_at_fork(after_in_child=_forget_in_child)

atexit.register(_at_exit)
