"""Runs that log to Trackio, in a directory of the tests and without a network."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest

from metriplex import RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunInfo]:
    """Make a run with a new id."""

    def make(name: str = "run") -> RunInfo:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        return RunInfo(uuid.uuid4().hex, name, directory, time.time())

    return make
