"""Priorities below training, with real processes that compete for one processor."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metriplex.video.draw.priority import LOWEST, lower_priority, restore_priority, waited_secs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

linux = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux's scheduler")

SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
while True: pass
"""
SLEEP = "print(flush=True); input()"


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    started: list[subprocess.Popen[bytes]] = []

    def start_one(code: str, *arguments: str) -> int:
        command = [sys.executable, "-S", "-c", code, *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield start_one
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@linux
def test_the_lowest_priority_gives_way_at_once_and_others_are_merely_nice(start) -> None:
    lowest, nice = start(SLEEP), start(SLEEP)
    lower_priority(lowest, LOWEST)
    lower_priority(nice, 7)
    assert os.getpriority(os.PRIO_PROCESS, lowest) == 19
    assert os.sched_getscheduler(lowest) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, nice) == 7
    assert os.sched_getscheduler(nice) == os.SCHED_OTHER


def test_a_process_that_has_ended_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
        lower_priority(process.pid, LOWEST)
        assert waited_secs(process.pid) == 0.0


@linux
@pytest.mark.long
def test_waiting_for_a_processor_is_told_from_waiting_for_anything_else(start) -> None:
    processor = str(min(os.sched_getaffinity(0)))
    start(SPIN, processor)
    starving, sleeping = start(SPIN, processor), start(SLEEP)
    lower_priority(starving, LOWEST)
    before = waited_secs(starving), waited_secs(sleeping)
    while waited_secs(starving) - before[0] < 0.5:
        assert os.waitpid(starving, os.WNOHANG) == (0, 0)
    assert waited_secs(sleeping) - before[1] < 0.1


@linux
@pytest.mark.long
def test_what_its_children_wait_for_counts(start) -> None:
    processor = str(min(os.sched_getaffinity(0)))
    start(SPIN, processor)
    parent = start(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {SPIN!r}, {processor!r}])\n"
        "print(flush=True)\nchild.wait()"
    )
    before = waited_secs(parent)
    while waited_secs(parent) - before < 0.5:
        assert os.waitpid(parent, os.WNOHANG) == (0, 0)


@linux
@pytest.mark.skipif(
    os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_NICE)[0] < 1,
    reason="Linux lets nobody else leave `SCHED_IDLE`",
)
def test_who_stood_back_comes_forward_with_its_children(start) -> None:
    parent = start(
        "import os, subprocess, sys\n"
        "os.nice(19)\n"
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(flush=True)\n"
        "child.wait()"
    )
    child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text())
    assert os.sched_getscheduler(child) == os.SCHED_IDLE
    restore_priority(parent)
    for process in (parent, child):
        assert os.sched_getscheduler(process) == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, process) == 19
