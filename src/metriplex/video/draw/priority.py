"""Priority of the drawing process, and the time for which it waits for a processor."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOWEST = 19
"""Niceness of a process that runs only when no other process wants the processor."""


def lower_priority(pid: int, nice: int) -> None:
    """Lower the priority of a process and of its future children, if the system allows it.

    On Linux a niceness of 19 also sets the policy `SCHED_IDLE`: threads of the training then
    preempt the process at once. With niceness alone, the process would first use up its time
    slice of some milliseconds (sched(7)).

    Args:
        pid: Id of a process that has just started. Threads that it already has keep their priority.
        nice: Niceness, 0 to 19.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    if nice == LOWEST and hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def restore_priority(pid: int) -> None:
    """End the policy `SCHED_IDLE` of a process and its children; their niceness stays.

    Args:
        pid: Id of the process. Nothing changes without the right (`RLIMIT_NICE` on Linux).
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    for thread in _threads(pid):
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(int(thread.name)) == os.SCHED_IDLE:
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def waited_secs(pid: int) -> float:
    """Return how long a process and its children were runnable without a processor.

    Args:
        pid: Id of the process.

    Returns:
        Seconds, summed over the current threads (Linux's `schedstat`; 0 on other systems).
    """
    total = 0.0
    for thread in _threads(pid):
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int((thread / "schedstat").read_text().split()[1]) / 1e9
    return total


def _threads(pid: int) -> Iterator[Path]:
    """Yield the threads of a process and of its children (Linux's /proc; none elsewhere)."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # the process has ended, or there is no /proc
        return
    for thread in threads:
        yield thread
        with contextlib.suppress(OSError, ValueError):
            for child in map(int, (thread / "children").read_text().split()):
                yield from _threads(child)
