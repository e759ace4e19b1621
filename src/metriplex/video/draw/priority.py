"""How far a process stands back from training, and whether it gets any processor at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOWEST = 19
"""The niceness of what runs only when nothing else wants the processor."""


def stand_back(pid: int, nice: int) -> None:
    """Lowers the priority of a process and of what it will start; where that isn't allowed, not.

    At a niceness of 19 Linux also gets the policy `SCHED_IDLE`: whatever training wakes runs at
    once, where one that is merely nice would first use up its slice of some milliseconds
    (sched(7)).

    Args:
        pid: The process, as it has just started: threads that it has already keep theirs.
        nice: Its niceness, 0 to 19.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    if nice == LOWEST and hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def come_forward(pid: int) -> None:
    """Ends the policy `SCHED_IDLE` of a process and its children, which stay as nice as they are.

    Args:
        pid: The process. Without the right to it (Linux asks for `RLIMIT_NICE`) nothing changes.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(int(task.name)) == os.SCHED_IDLE:
                os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))


def waited_secs(pid: int) -> float:
    """How long a process and its children were ready to run while others had the processors.

    Args:
        pid: The process.

    Returns:
        Seconds, summed over the threads that there are now (Linux's `schedstat`; elsewhere 0).
    """
    total = 0.0
    for task in _tasks(pid):
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int((task / "schedstat").read_text().split()[1]) / 1e9
    return total


def _tasks(pid: int) -> Iterator[Path]:
    """The threads of a process and of its children, in Linux's /proc; none elsewhere."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it has ended, or there is no /proc
        return
    for task in tasks:
        yield task
        with contextlib.suppress(OSError, ValueError):
            for child in map(int, (task / "children").read_text().split()):
                yield from _tasks(child)
