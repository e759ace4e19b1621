"""Runs to log to, and a look at the processes that a backend has started."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metriplex import RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunInfo]:
    def make(name: str = "run", run_id: str | None = None) -> RunInfo:
        directory = tmp_path / "logs" / name
        directory.mkdir(parents=True, exist_ok=True)
        return RunInfo(run_id or uuid.uuid4().hex, name, directory, time.time())

    return make


@pytest.fixture
def descendants() -> Callable[[], dict[int, str]]:
    """The processes below this one, also those in sessions of their own: id to command."""

    def find() -> dict[int, str]:
        parents, commands = {}, {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if state != "Z":
                parents[int(path.name)], commands[int(path.name)] = int(parent), command
        found = {os.getpid()}
        for _ in range(4):
            found |= {pid for pid, parent in parents.items() if parent in found}
        return {pid: commands[pid] for pid in found - {os.getpid()}}

    return find
