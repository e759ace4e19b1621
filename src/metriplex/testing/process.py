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
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

_PAUSE = 0.02


@final
@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of this process, as far as the operating system reports them.

    Attributes:
        threads: Names of threads.
        files: Targets of open file descriptors: files, sockets, pipes.
        processes: Command names of child processes.
    """

    threads: Counter[str]
    files: Counter[str]
    processes: Counter[str]

    @classmethod
    def of_this_process(cls) -> Self:
        """Return the current resources, after a garbage collection."""
        gc.collect()
        return cls(
            Counter(thread.name for thread in threading.enumerate()),
            Counter(_open_files()),
            Counter(_children()),
        )

    def grown(self, before: Resources) -> dict[str, list[str]]:
        """Return the added names of each kind whose number is higher than `before`."""
        pairs = {
            "threads": (self.threads, before.threads),
            "files": (self.files, before.files),
            "processes": (self.processes, before.processes),
        }
        return {
            kind: sorted((now - then).elements())
            for kind, (now, then) in pairs.items()
            if now.total() > then.total()
        }


def settle(before: Resources, timeout: float) -> dict[str, list[str]]:
    """Wait until no resources are added to `before`; return those left after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while (grown := Resources.of_this_process().grown(before)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return grown


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


def _open_files() -> list[str]:
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
