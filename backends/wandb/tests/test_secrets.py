"""Nothing that the wandb client records by itself holds a secret of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("wandb")

if TYPE_CHECKING:
    from pathlib import Path

TRAINING = """
import sys
from metriplex import MetricsCallback
with MetricsCallback("run", log_dir=sys.argv[1], backends="wandb", provenance=True) as metrics:
    metrics.log(1, {"loss": 1.0})
"""

SECRETS = [
    *("--wandb-key=hunter1", "--db-password", "hunter2", "--api-key", "-hunter3"),
    *("--tokens", "hunter4", "hunter5", "--env=WANDB_API_KEY=hunter6", "url=http://me:hunter7@x/"),
    *("Authorization: Bearer hunter8-abcdefgh", "--lr", "0.25"),
]


@pytest.mark.long
def test_no_file_of_a_run_holds_a_secret_of_the_command_line(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for command in (
        ["init", "-q"],
        ["add", "train.py"],
        ["commit", "-qm", "first"],
        ["remote", "add", "origin", "https://me:hunter9@example.invalid/repository.git"],
    ):
        subprocess.run([*git, *command], check=True)
    logs = tmp_path / "logs"
    subprocess.run(
        [sys.executable, str(script), str(logs), *SECRETS],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"WANDB_MODE": "offline"},
    )
    found = {path: path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    assert any(path.suffix == ".wandb" and b"0.25" in data for path, data in found.items())
    assert [path for path, data in found.items() if b"hunter" in data] == []
