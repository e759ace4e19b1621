"""Read the resources and the global state of a process, for the tests of a contract."""

from __future__ import annotations

import contextlib
import decimal
import gc
import hashlib
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator


def resources() -> dict[str, Counter[str]]:
    """Return the resources of this process, after a garbage collection, by kind and name.

    They are threads, files (also sockets and pipes) and child processes, as far as the operating
    system reports them.
    """
    gc.collect()
    return {
        "threads": Counter(thread.name for thread in threading.enumerate()),
        "files": Counter(open_files()),
        "processes": Counter(_children()),
    }


def settle(before: dict[str, Counter[str]], timeout: float) -> dict[str, list[str]]:
    """Wait until no kind has more resources than before; return those added after the timeout."""
    deadline = time.monotonic() + timeout
    while (grown := _grown(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return grown


def _grown(before: dict[str, Counter[str]]) -> dict[str, list[str]]:
    return {
        kind: sorted((now - before[kind]).elements())
        for kind, now in resources().items()
        if now.total() > before[kind].total()
    }


def surroundings() -> dict[str, str]:
    """Return the global state that a backend must not change: name to description.

    State of a thread or of a context, such as NumPy's, is that of the calling thread.
    """
    handlers = {
        f"the handler of {number.name}": repr(signal.getsignal(number)) for number in signal.Signals
    }
    variables = {f"the variable {name}": value for name, value in os.environ.items()}
    limits = {
        f"the limit {name}": repr(resource.getrlimit(getattr(resource, name)))
        for name in dir(resource)
        if name.startswith("RLIMIT_")
    }
    return {
        **handlers,
        **variables,
        **limits,
        "the working directory": str(Path.cwd()),
        "the file mode creation mask": _umask(),
        "the locale": repr(locale.setlocale(locale.LC_ALL)),
        "`random`": _digest(random.getstate()),
        "`numpy.random`": _digest(np.random.get_state()),  # noqa: NPY002 - the user's may be it
        "`numpy.geterr()`": repr(np.geterr()),
        "the context of `decimal`": repr(decimal.getcontext()),
        "the default timeout of sockets": repr(socket.getdefaulttimeout()),
        "the recursion limit": str(sys.getrecursionlimit()),
        "the switch interval": str(sys.getswitchinterval()),
        "the garbage collector": repr((gc.isenabled(), gc.get_threshold())),
        "the start method of `multiprocessing`": repr(
            multiprocessing.get_start_method(allow_none=True)
        ),
        "the disabled level of `logging`": str(logging.root.manager.disable),
        "`sys.stdin`": repr(sys.stdin),
        "`sys.displayhook`": repr(sys.displayhook),
        "`sys.unraisablehook`": repr(sys.unraisablehook),
        "`sys.stdout`": repr(sys.stdout),
        "`sys.stderr`": repr(sys.stderr),
        "`sys.excepthook`": repr(sys.excepthook),
        "`threading.excepthook`": repr(threading.excepthook),
        "the root logger": repr((logging.root.level, logging.root.handlers)),
    }


def _umask() -> str:
    mask = os.umask(0)
    os.umask(mask)
    return oct(mask)


def _digest(state: object) -> str:
    with np.printoptions(threshold=sys.maxsize):
        return hashlib.sha256(repr(state).encode()).hexdigest()


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the names whose descriptions differ."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


def open_files() -> list[str]:
    """Return the targets of open file descriptors: files, sockets, pipes."""
    folder, found = Path("/proc/self/fd"), []
    for entry in folder.iterdir() if folder.is_dir() else ():
        try:
            found.append(str(entry.readlink()))
        except OSError:  # the descriptor that lists the folder
            continue
    return found


@contextlib.contextmanager
def limited(name: str, value: int) -> Generator[None]:
    """Lower a limit of this process, such as `RLIMIT_FSIZE`, in a `with` block."""
    number = getattr(resource, name)
    before, hard = resource.getrlimit(number)
    resource.setrlimit(number, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(number, (before, hard))


def first_free_descriptor() -> int:
    """Return the number that the next file of this process gets."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def _children() -> list[str]:
    names = []
    for task in Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                names.append(Path("/proc", child, "comm").read_text().strip())
            except OSError:  # the child has ended
                continue
    return names
