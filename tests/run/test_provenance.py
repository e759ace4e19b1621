from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import pytest

from metriplex.run import provenance

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run git in a fresh work tree, independent of the configuration of the machine."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")

    def run(*arguments: str) -> str:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "-q")
    return run


def test_commit_and_changes_of_a_work_tree(tmp_path: Path, git: Callable[..., str]) -> None:
    assert provenance.git_state(tmp_path) == {}  # no commit yet
    (tmp_path / "train.py").write_text("one")
    git("add", "train.py")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "untracked").write_text("x")
    assert provenance.git_state(tmp_path / "logs") == {"git commit": commit, "git state": "clean"}
    (tmp_path / "train.py").write_text("two")
    expected = {"git commit": commit, "git state": "1 tracked file(s) changed"}
    assert provenance.git_state(tmp_path) == expected


def test_no_work_tree_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_state(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(Path(__file__).parent) == {}


def test_the_versions_are_those_of_imported_packages() -> None:
    versions = provenance.packages()
    assert versions["jax"] == jax.__version__
    assert {"metriplex", "numpy"} <= set(versions)
    assert "dm-haiku" not in versions


def test_collect_returns_command_directory_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--lr", "3e-4", "--api-key", "x"])
    facts = provenance.collect()
    assert facts["command"] == "python train.py --lr 3e-4 --api-key '***'"
    assert facts["directory"] == str(Path.cwd())
    assert facts["python"] == sys.version.split()[0]
    assert f"jax {jax.__version__}" in facts["packages"]


@pytest.mark.parametrize(
    ("arguments", "masked"),
    [
        (["--token=abc", "x"], ["--token=***", "x"]),
        (["--password", "abc", "x"], ["--password", "***", "x"]),
        (["--password", "-abc", "x"], ["--password", "***", "x"]),
        (["--tokens", "a", "b", "--lr", "1"], ["--tokens", "***", "***", "--lr", "1"]),
        (["--env=WANDB_API_KEY=abc"], ["--env=WANDB_API_KEY=***"]),
        (["--db", "psql://me:abc@host"], ["--db", "psql://me:***@host"]),
        (["--wandb-key", "--resume"], ["--wandb-key", "--resume"]),
        (["wandb.api_key=abc"], ["wandb.api_key=***"]),
        (["--use-token", "--lr", "1"], ["--use-token", "--lr", "1"]),
        (["--name=a=b", "monkey", "1"], ["--name=a=b", "monkey", "1"]),
    ],
)
def test_values_of_secrets_are_masked(arguments: list[str], masked: list[str]) -> None:
    assert provenance.mask_arguments(arguments) == masked


def test_a_table_holds_any_text() -> None:
    table = provenance.to_markdown({"command": "a | b\nc"})
    assert table == "| | |\n|---|---|\n| command | a \\| b c |"
