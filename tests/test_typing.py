"""A type checker accepts programs that use the public interface, and rejects misuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CASES = Path(__file__).parent / "typing_cases"


def check(file: Path) -> str:
    ty = [sys.executable, "-m", "ty", "check", "--python", sys.prefix, "--output-format", "concise"]
    return subprocess.run(
        [*ty, str(file)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    ).stdout.strip()


@pytest.mark.parametrize("case", ["right", "wrong"])
def test_right_lines_are_right_and_wrong_lines_are_wrong(case: str) -> None:
    # every line of `wrong.py` that is not wrong any more has an ignore that is not needed
    assert check(CASES / f"{case}.py") == "All checks passed!"


def test_an_ignore_that_is_not_needed_is_found(tmp_path: Path) -> None:
    case = tmp_path / "case.py"
    case.write_text("print(3)  # ty: ignore[invalid-argument-type]\n")
    assert "case.py:1:11: error[unused-ignore-comment]" in check(case)
