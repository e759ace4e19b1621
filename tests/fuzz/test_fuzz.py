"""A bounded run of the fuzzer, which learns from the code that it reaches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "harness.py"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["journal", "sealed", "events", "messages"])
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    command = [sys.executable, str(HARNESS), target, "-runs=5000", "-max_len=2000", "-seed=1"]
    # The fuzzer limits the peak of its memory, and a process inherits the peak of the one that
    # starts it: not this one, which has compiled much, but a shell.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Done 5000 runs" in run.stderr
