"""What a process holds and what its surroundings are, for the tests of a contract."""

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
    """What the system has lent to this process, as far as the system tells.

    Attributes:
        threads: Names of threads.
        files: What open descriptors lead to: files, sockets, pipes.
        processes: Command names of child processes.
    """

    threads: Counter[str]
    files: Counter[str]
    processes: Counter[str]

    @classmethod
    def of_this_process(cls) -> Self:
        """What there is now, without what the garbage collector would free."""
        gc.collect()
        return cls(
            Counter(thread.name for thread in threading.enumerate()),
            Counter(_open_files()),
            Counter(_children()),
        )

    def grown(self, before: Resources) -> dict[str, list[str]]:
        """What has been added, by kind, if its number has grown."""
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
    """What has grown since, once what ends by itself has ended, or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while (grown := Resources.of_this_process().grown(before)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return grown


def surroundings() -> dict[str, str]:
    """What the whole process shares and a backend has no business with: name to description."""
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
    """Names of what differs."""
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
            except OSError:  # it has ended meanwhile
                continue
    return names
