"""Ctrl-C while the main thread waits for a compiled program.

Python raises `KeyboardInterrupt` only where the main thread runs Python, and that may wait inside of
a compiled program for hours. The host call of such a program then raises it, which ends the program
at its next iteration; the main thread goes on, and gets its own `KeyboardInterrupt`.
"""

from __future__ import annotations

import ctypes
import time

SETTLE = 0.1
"""Seconds in which a main thread that runs Python has taken notice of Ctrl-C by itself."""

_pending = False


def notice() -> None:
    """Note that Ctrl-C was pressed. Any thread but the main one."""
    global _pending
    _pending = True
    # Python makes this call on the main thread, when that next runs Python.
    if ctypes.pythonapi.Py_AddPendingCall(_clear, None) != 0:
        _pending = False


def stop_if_pending() -> None:
    """Raise `KeyboardInterrupt` if the main thread can't take notice of Ctrl-C. Any thread."""
    if _pending:
        time.sleep(SETTLE)
        if _pending:
            raise KeyboardInterrupt


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
def _clear(_: object) -> int:
    global _pending
    _pending = False
    return 0
