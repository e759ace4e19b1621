"""Closing open runs when the process ends: by exit, by an exception, by a signal."""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import threading
from typing import TYPE_CHECKING

from metriplex.bridge import registry
from metriplex.errors import MetriplexError
from metriplex.run import signals

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("metriplex")


def close_all(status: str, *, running: bool) -> None:
    """Close every open run; an error of one is logged, and the others are closed all the same.

    Programs that may still be `running` are not waited for.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed meanwhile; every run is closed before it is raised.
    """
    interrupt = None
    for close in registry.closers():
        try:
            close(status, running)
        except MetriplexError as error:
            logger.error("%s", error)  # noqa: TRY400 - it says everything that the user can mend
        except Exception:
            logger.exception("a run could not be closed properly at the end of the process")
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def call_uninterrupted(finish: Callable[[], None]) -> None:
    """Call a function on a thread that Ctrl-C doesn't reach, and wait for its end.

    The first Ctrl-C meanwhile is raised at the end; the second ends the waiting at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return finish()
    errors: list[BaseException] = []
    done = threading.Event()
    claimed = threading.Lock()

    def call() -> None:
        if not claimed.acquire(blocking=False):
            return
        try:
            finish()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=call, name="metriplex-close", daemon=True).start()
        done.wait()
    except RuntimeError:  # an interpreter that ends starts no thread
        call()
    except KeyboardInterrupt:
        logger.warning(
            "the run is still being closed, so that nothing is lost; Ctrl-C once more ends that"
        )
        call()  # if Ctrl-C came before the thread was started
        done.wait()
        raise
    for error in errors:
        raise error
    return None


def _at_exit() -> None:
    signals.hold_if_terminating()
    uncaught = getattr(sys, "last_value", None)
    # Ctrl-C inside a host function surfaces as an error of the compiled program.
    interrupted = isinstance(uncaught, KeyboardInterrupt) or "KeyboardInterrupt" in str(uncaught)
    status = "interrupted" if interrupted else "failed" if uncaught is not None else "finished"
    close_all(status, running=False)


def watch() -> None:
    """Have open runs closed when the process ends, by itself or by a signal."""
    _watch_exit()
    signals.watch(functools.partial(close_all, "interrupted", running=True))


@functools.cache
def _watch_exit() -> None:
    # Handlers run in the reverse order of their registration, and who opens a run has imported jax:
    # ours runs before those of jax, which take its backends apart.
    atexit.register(_at_exit)
