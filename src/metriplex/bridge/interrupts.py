"""Ctrl-C while the main thread waits for a compiled program.

Python raises `KeyboardInterrupt` only where the main thread runs Python, and that may wait inside
of a compiled program for hours. The host call of such a program then ends it at its next iteration;
the main thread goes on, and gets its own `KeyboardInterrupt`.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

SETTLE = 0.1
"""Seconds in which a main thread that runs Python has taken notice of Ctrl-C by itself."""

INTERRUPTED = "KeyboardInterrupt: Ctrl-C has stopped the program"
"""The error of a program that Ctrl-C ends."""

_pending = False
_stopping = 0


def describe(error: BaseException) -> str:
    """Return the message of a program that an exception of a signal handler ends."""
    is_ctrl_c = isinstance(error, KeyboardInterrupt)
    return INTERRUPTED if is_ctrl_c else f"{type(error).__name__}: {error}"


def notice() -> None:
    """Note that Ctrl-C was pressed. Any thread but the main one."""
    global _pending
    _pending = True
    # Python makes this call on the main thread, when that next runs Python.
    if ctypes.pythonapi.Py_AddPendingCall(_clear, None) != 0:
        _pending = False


def must_stop() -> bool:
    """Return True if Ctrl-C is to end the program that calls the host. Any thread.

    That is so if the main thread can't take notice of Ctrl-C, or in `stopping`.
    """
    if _pending and not _stopping:
        time.sleep(SETTLE)
    return bool(_pending or _stopping)


@contextlib.contextmanager
def stopping() -> Generator[None]:
    """End programs at their next host call: Ctrl-C has ended what waits for their results."""
    global _stopping
    _stopping += 1
    try:
        yield
    finally:
        _stopping -= 1


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
def _clear(_: object) -> int:
    global _pending
    _pending = False
    return 0
