"""The contract's tests write into a directory of their own, whatever the user has set."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("trackio")

if TYPE_CHECKING:
    from pathlib import Path


def run_the_contract(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test of the contract as a user who has a Trackio directory of one's own."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(directory)]
    command += ["-p", "no:cacheprovider", "-k", "bools", *options]
    command += ["--pyargs", "metriplex.testing", "--metriplex-backend", "trackio"]
    own = {"TRACKIO_DIR": str(directory / "own"), "HOME": str(directory / "home")}
    environment = {**os.environ, **own, "PYTHONPATH": str(directory)}
    environment.pop("HF_HOME", None)
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


def test_the_directory_of_the_user_stays_as_it_is(tmp_path: Path) -> None:
    done = run_the_contract(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_trackio_that_was_imported_with_another_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text("import trackio\n")
    done = run_the_contract(tmp_path, "-p", "early")
    assert done.returncode == 1
    assert f"Trackio was imported with the directory `{tmp_path / 'own'}`" in done.stdout
    assert list((tmp_path / "own").glob("*.db")) == []
