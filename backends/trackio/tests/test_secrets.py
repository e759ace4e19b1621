"""Nothing that is stored in Trackio holds a secret of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("trackio")

if TYPE_CHECKING:
    from pathlib import Path

TRAINING = """
import sys
from metriplex import MetricsCallback
with MetricsCallback("run", log_dir=sys.argv[1], backends="trackio", provenance=True) as metrics:
    metrics.log(1, {"loss": 1.0})
"""

SECRETS = [
    *("--wandb-key=hunter1", "--db-password", "hunter2", "--api-key", "-hunter3"),
    *("--env=WANDB_API_KEY=hunter6", "url=http://me:hunter7@x/", "--lr", "0.25"),
]


@pytest.mark.long
def test_no_stored_byte_is_a_secret_of_the_command_line(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "logs"), *SECRETS],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"},
    )
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"***" in data and b"0.25" in data for data in stored)
    assert not any(b"hunter" in data for data in stored)
