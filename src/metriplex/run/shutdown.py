"""Closing open runs when the process ends: by exit, by an exception, by SIGTERM."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
import threading

from metriplex.bridge import registry
from metriplex.errors import MetriplexError

logger = logging.getLogger("metriplex")

GRACE = 60.0
"""Seconds after which SIGTERM ends the process even if a run can't be closed."""

_terminating = threading.Event()


def close_all(status: str, *, running: bool) -> None:
    """Close every open run; an error of one is logged, and the others are closed all the same.

    Programs that may still be `running` are not waited for.
    """
    for close in registry.closers():
        try:
            close(status, running)
        except MetriplexError as error:
            logger.error("%s", error)  # noqa: TRY400 - it says everything that the user can mend
        except Exception:
            logger.exception("a run could not be closed properly at the end of the process")


def hold_if_terminating() -> None:
    """Hold the main thread once SIGTERM was received: the process ends before it goes on."""
    if _terminating.is_set() and threading.current_thread() is threading.main_thread():
        threading.Event().wait()


def _at_exit() -> None:
    hold_if_terminating()
    uncaught = getattr(sys, "last_value", None)
    # Ctrl-C inside a host function surfaces as an error of the compiled program.
    interrupted = isinstance(uncaught, KeyboardInterrupt) or "KeyboardInterrupt" in str(uncaught)
    status = "interrupted" if interrupted else "failed" if uncaught is not None else "finished"
    close_all(status, running=False)


# ---- SIGTERM ------------------------------------------------------------------------------------
#
# A handler in Python runs only when the main thread runs Python, and that may be inside a compiled
# program for hours. So a thread waits at the other end of a wake-up descriptor, to which the
# interpreter's own C handler writes at once. The main thread is not stopped meanwhile, as it may
# hold a lock that closing needs. A program that handles SIGTERM by itself is left alone.

_HANDLED = b"\0"
"""The byte that the handler writes itself, where an event loop has the wake-up descriptor."""

_sender: int | None = None


def watch() -> None:
    """Have open runs closed when the process ends, by itself or by SIGTERM.

    Only the main thread can do that for SIGTERM: if it never calls, SIGTERM costs the records since
    the last flush.
    """
    _watch_exit()
    _watch_sigterm()


@functools.cache
def _watch_exit() -> None:
    # Handlers run in the reverse order of their registration, and who opens a run has imported jax:
    # ours runs before those of jax, which take its backends apart.
    atexit.register(_at_exit)


def _watch_sigterm() -> None:
    global _sender
    is_main = threading.current_thread() is threading.main_thread()
    if _sender is not None or not is_main or not _would_end_process():
        return
    read_end, sender = os.pipe()
    os.set_blocking(sender, False)
    previous = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    if previous != -1:  # an event loop's: its main thread runs Python often enough
        signal.set_wakeup_fd(previous)
    _sender = sender
    signal.signal(signal.SIGTERM, _on_sigterm)
    threading.Thread(
        target=_wait_for_sigterm, args=(read_end,), name="metriplex-sigterm", daemon=True
    ).start()


def _would_end_process() -> bool:
    if os.name != "posix" or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    with contextlib.suppress(Exception):  # Python does not know handlers of C, such as jax's own
        import ctypes

        action = (ctypes.c_void_p * 64)()  # more than `struct sigaction`; the handler comes first
        known = ctypes.CDLL(None).sigaction(signal.SIGTERM.value, None, action) == 0
        return not (known and action[0])
    return True


def _on_sigterm(_signal: int, _frame: object) -> None:
    sender = _sender
    if sender is not None:
        with contextlib.suppress(OSError):
            os.write(sender, _HANDLED)


def _wait_for_sigterm(read_end: int) -> None:
    while True:
        received = os.read(read_end, 64)
        # A handler that the program has set since then takes precedence, unless it calls ours.
        ours = signal.getsignal(signal.SIGTERM) is _on_sigterm
        if _HANDLED in received or (signal.SIGTERM in received and ours):
            break
    _terminating.set()
    closing = threading.Thread(
        target=close_all, args=("interrupted",), kwargs={"running": True}, daemon=True
    )
    closing.start()
    closing.join(GRACE)
    _die()


def _die() -> None:
    """End the process as SIGTERM does by default; for threads that may not call `signal.signal`."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).signal(signal.SIGTERM.value, None)
        signal.raise_signal(signal.SIGTERM)
    os._exit(128 + signal.SIGTERM)


# ---- fork ---------------------------------------------------------------------------------------
#
# A forked child must neither close its parent's runs nor catch its own SIGTERM, nor report it to
# the parent through the descriptor that both have. SIGTERM is blocked until the child has reset all
# that; the registry's own hook, which runs before the one here, has then forgotten the runs.

_masks = threading.local()


def _before_fork() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _after_fork_in_child() -> None:
    global _sender, _terminating
    _terminating = threading.Event()
    if _sender is not None:
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor not in (-1, _sender):
            signal.set_wakeup_fd(descriptor)
        if signal.getsignal(signal.SIGTERM) is _on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _sender = None
    _after_fork()


if hasattr(os, "register_at_fork"):  # no fork on Windows
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork_in_child,
    )
