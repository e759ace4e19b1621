"""The pytest plugin in `pytest --pyargs metriplex.testing`, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import interpreter
from interpreter import PYTEST

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess


def run_pytest(directory: Path, *arguments: str, fresh: bool = False) -> CompletedProcess[str]:
    options = ["-p", "no:cacheprovider", "-p", "no:jaxtyping", "-q", "-c", os.devnull]
    options += ["--rootdir", str(directory), *arguments]
    where: dict[str, Any] = {"cwd": directory, "env": {**os.environ, "PYTHONPATH": str(directory)}}
    if not fresh:
        return interpreter.run(PYTEST, *options, **where)
    command = [sys.executable, "-m", "pytest", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, **where)


def test_the_contract_of_an_installed_backend_runs_by_its_name(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        *("--pyargs", "metriplex.testing", "--metriplex-backend", "console"),
        *("--metriplex-results", "results.json", "-k", "bools or images or own"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {
        (test["backend"], test["test"], test["outcome"], test["reason"]) for test in results
    } == {
        ("console", "test_bools_are_kept", "passed", ""),
        ("console", "test_images", "skipped", "the backend doesn't implement `log_image`"),
        (
            *("console", "test_lanes_are_runs_of_their_own", "xfailed"),
            "lanes are shown as their mean and standard deviation",
        ),
    }


@pytest.mark.parametrize(
    ("entries", "arguments", "message"),
    [
        ("", [], "name the backend whose contract is to be run: `pytest --pyargs"),
        ("", ["nope"], "backend `nope` is not installed"),
        (
            "[metriplex.backends]\nmine = mine:Mine\n",
            ["mine"],
            "backend `mine` (mine:Mine) brings no contract",
        ),
        (
            "[metriplex.contracts]\nmine = missing_module:Contract\n",
            ["mine"],
            "the contract of backend `mine` (missing_module:Contract) can't be imported: ModuleNot",
        ),
        (
            "[metriplex.contracts]\nmine = pathlib:Path\n",
            ["mine"],
            "must be a subclass of `metriplex.testing.BackendContract`; got",
        ),
    ],
    ids=["none", "not installed", "no contract", "not importable", "no class of ours"],
)
@pytest.mark.long
def test_unusable_options_are_usage_errors(
    tmp_path: Path, entries: str, arguments: list[str], message: str
) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    options = [part for name in arguments for part in ("--metriplex-backend", name)]
    done = run_pytest(tmp_path, "--pyargs", "metriplex.testing", *options)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert message in done.stderr


@pytest.mark.long
def test_other_suites_are_not_affected(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n"
        "def test_mine():\n"
        "    assert 'metriplex_pytest.plugin' in sys.modules\n"
        "    assert not {'jax', 'numpy', 'metriplex'} & sys.modules.keys()\n"
    )
    done = run_pytest(tmp_path, "-W", "error", fresh=True)
    assert (done.returncode, done.stdout.splitlines()[-1][:8]) == (0, "1 passed"), done.stdout
