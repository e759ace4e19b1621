"""Read the resources and the global state of a process, for the tests of a contract."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path


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
    """Return the global state that a backend must not change: name to description."""
    handlers = {
        f"the handler of {number.name}": repr(signal.getsignal(number)) for number in signal.Signals
    }
    variables = {f"the variable {name}": value for name, value in os.environ.items()}
    return {
        **handlers,
        **variables,
        "the working directory": str(Path.cwd()),
        "`sys.stdout`": repr(sys.stdout),
        "`sys.stderr`": repr(sys.stderr),
        "`sys.excepthook`": repr(sys.excepthook),
        "`threading.excepthook`": repr(threading.excepthook),
        "the root logger": repr((logging.root.level, logging.root.handlers)),
    }


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


def _children() -> list[str]:
    names = []
    for task in Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                names.append(Path("/proc", child, "comm").read_text().strip())
            except OSError:  # the child has ended
                continue
    return names
