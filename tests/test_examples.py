"""Every example runs unchanged in an empty directory and logs the right values."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metriplex.demo.cartpole import CartPole, CartPoleState

EXAMPLES = Path(__file__).parent.parent / "examples"
TESTED = {"ppo_cartpole", "many_seeds", "custom_backend", "python_loop"}


def run_example(name: str, directory: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    finished = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def read(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values of each tag, by TensorBoard's own reader."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def only(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def test_all_examples_are_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TESTED


def test_the_cart_pole_of_the_example_is_that_of_the_demo():
    cart_pole = runpy.run_path(str(EXAMPLES / "ppo_cartpole.py"))["cart_pole"]
    before = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    action = jnp.arange(32) % 2
    states = CartPoleState(*jnp.asarray(before.T), time=jnp.zeros(32, jnp.int32))
    after = jax.vmap(lambda state, action: CartPole().transition(state, action))(states, action)
    expected = jax.vmap(CartPole().observation)(after)
    np.testing.assert_allclose(cart_pole(before, action), expected, rtol=1e-5, atol=1e-6)


def test_a_plain_python_loop(tmp_path):
    printed = run_example("python_loop", tmp_path)
    scalars = read(tmp_path / "logs" / "bandit")
    steps, regret = zip(*scalars["bandit/regret"], strict=True)
    assert list(steps) == list(range(100, 2001, 100))
    assert list(regret) == sorted(regret)
    assert f"regret {regret[-1]:.1f} after 2000 steps" in printed
    assert [step for step, _ in scalars["bandit/best_arm"]] == list(steps)
    assert scalars["bandit/best_arm"][-1][1] > 0.5


@pytest.mark.long
def test_a_backend_of_ones_own(tmp_path):
    printed = run_example("custom_backend", tmp_path)
    lines = (tmp_path / "logs" / "jsonl" / "scalars.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert printed.strip() == lines[-1]
    assert [record["step"] for record in records] == [1024 * (i + 1) for i in range(10)]
    assert records[0]["train/entropy"] == pytest.approx(0.69, abs=0.02)
    assert records[-1]["episode/return"] > records[0]["episode/return"] > 9


@pytest.mark.slow
def test_ppo_on_cartpole(tmp_path):
    printed = run_example("ppo_cartpole", tmp_path)
    scalars = read(only(tmp_path, "logs/PPO_CartPole_*"))
    steps, returns = zip(*scalars["episode/return"], strict=True)
    assert list(steps) == [2048 * (i + 1) for i in range(40)]
    assert returns[0] < 50
    assert returns[-1] > 200
    assert f"mean return {returns[-1]:.1f}," in printed
    assert scalars["train/learning_rate"][-1][1] == pytest.approx(1e-3 / 1280, rel=1e-3)


@pytest.mark.slow
def test_many_seeds(tmp_path):
    printed = run_example("many_seeds", tmp_path)
    run = only(tmp_path, "logs/PPO_CartPole_*")
    last = []
    for seed in range(8):
        returns = read(run / f"seed_{seed:03d}")["episode/return"]
        assert [step for step, _ in returns] == [1024 * (i + 1) for i in range(20)]
        assert f"seed {seed}: mean return {returns[-1][1]:.1f}" in printed
        last.append(returns[-1][1])
    assert len(set(last)) == 8
    assert min(last) > 30
    overall = read(run)
    statistics = {name: curve[-1] for name, curve in overall.items() if "/return/" in name}
    assert {step for step, _ in statistics.values()} == {20 * 1024}
    mean = sum(last) / 8
    assert statistics["aggregate/episode/return/mean"][1] == pytest.approx(mean, rel=1e-5)
    assert statistics["aggregate/episode/return/min"][1] == min(last)
    middle = sum(sorted(last)[2:6]) / 4
    assert statistics["aggregate/episode/return/iqm"][1] == pytest.approx(middle, rel=1e-5)
    assert f"all seeds: mean return {mean:.1f}" in printed
