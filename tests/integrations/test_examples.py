"""Every example of an installed library runs unchanged and logs the right records."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "integrations"
pytestmark = pytest.mark.slow


def run(name: str, directory: Path) -> str:
    program = EXAMPLES / f"{name}.py"
    imported = re.findall(r"^(?:import|from) (\w+)", program.read_text(), re.MULTILINE)
    for library in set(imported) - {"__future__"}:
        pytest.importorskip(library)
    finished = subprocess.run(
        [sys.executable, program], cwd=directory, capture_output=True, text=True, timeout=550
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def read(run: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """Return steps and values of each tag, and the steps of the videos."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]
    }
    videos = events.Images("eval/video") if "eval/video" in tags["images"] else []
    return scalars, [video.step for video in videos]


def only(directory: Path, pattern: str = "logs/*") -> Path:
    (found,) = directory.glob(pattern)
    return found


def test_purejaxrl_style(tmp_path):
    run("purejaxrl_style", tmp_path)
    directory = only(tmp_path)
    for seed in range(2):
        scalars, videos = read(directory / f"seed_{seed:03d}")
        steps, returns = zip(*scalars["episode/return"], strict=True)
        assert list(steps) == [512 * (i + 1) for i in range(128)]
        assert max(returns) > 100
        assert scalars["train/learning_rate"][-1][1] < scalars["train/learning_rate"][0][1]
        assert videos == ([512, 65 * 512] if seed == 0 else [])


def test_lerax_ppo(tmp_path):
    run("lerax_ppo", tmp_path)
    scalars, videos = read(only(tmp_path))
    assert [step for step, _ in scalars["train/loss"]] == [512 * (i + 1) for i in range(32)]
    assert scalars["episode/return"][-1][1] > scalars["episode/return"][0][1]
    assert videos == [512, 17 * 512]


def test_rejax_seeds(tmp_path):
    if hasattr(pytest.importorskip("gymnax.environments.environment").Environment, "is_truncated"):
        pytest.skip("this rejax needs gymnax before 1.0")
    printed = run("rejax_seeds", tmp_path)
    for seed in range(4):
        scalars, _ = read(tmp_path / "logs" / "rejax" / f"seed_{seed:03d}")
        steps, returns = zip(*scalars["eval/return"], strict=True)
        assert list(steps) == [4096 * i for i in range(5)]
        assert f"{returns[-1]:.1f}" in printed


def test_gymnasium_vector(tmp_path):
    printed = run("gymnasium_vector", tmp_path)
    scalars, _ = read(tmp_path / "logs" / "gymnasium")
    returns = [value for _, value in scalars["episode/return"]]
    assert returns[-1] > 10 * returns[0]
    assert f"mean return {returns[-1]:.1f}" in printed


def test_sbx_ppo(tmp_path):
    printed = run("sbx_ppo", tmp_path)
    scalars, _ = read(tmp_path / "logs" / "sbx_ppo")
    steps, returns = zip(*scalars["episode/return"], strict=True)
    assert list(steps) == [512 * (i + 1) for i in range(32)]
    assert returns[-1] > 2 * returns[0]
    assert f"mean return {returns[-1]:.1f}" in printed


def test_brax_ppo(tmp_path):
    run("brax_ppo", tmp_path)
    scalars, videos = read(only(tmp_path))
    assert len(scalars["eval/return"]) == 2
    assert len(scalars["episode/return"]) >= 3
    assert videos == [0, scalars["eval/return"][-1][0]]
