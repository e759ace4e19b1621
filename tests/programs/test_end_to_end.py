"""The whole: the demo as a user starts it, and a real TensorBoard that reads what it wrote."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final
from urllib.parse import urlencode

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metriplex import MetricsCallback, MetricsState

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).parents[2]
SOLVED = 475.0

Curve = list[tuple[int, float]]


def read(directory: Path) -> dict[str, Curve]:
    """Steps and values of every scalar in an event file, by TensorBoard's own reader."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


# ---- while the program runs ---------------------------------------------------------------------


def test_the_first_record_is_in_the_file_while_the_program_still_runs(tmp_path: Path) -> None:
    found = threading.Event()

    def watch(directory: Path) -> None:
        while not found.is_set() and threading.main_thread().is_alive():
            if "train/i" in read(directory):
                found.set()

    def wait(i: np.ndarray) -> np.ndarray:
        # iteration 1 can't begin, so the program can't end, before the record of 0 is in the file
        return np.asarray(i == 0 or found.wait(60))

    @jax.jit
    def train(metrics: MetricsCallback) -> jax.Array:
        def turn(state: MetricsState, i: jax.Array) -> tuple[MetricsState, jax.Array]:
            ok = jax.pure_callback(wait, jax.ShapeDtypeStruct((), bool), i)
            return metrics.on_iteration(state, training_log={"i": i + 0 * ok}), ok

        return jax.lax.scan(turn, metrics.init(1), jnp.arange(3))[1]

    backends = {"tensorboard": {"flush_secs": 0.05}}
    with MetricsCallback("run", log_dir=tmp_path, backends=backends) as metrics:
        watcher = threading.Thread(target=watch, args=[metrics.directory])
        watcher.start()
        assert train(metrics).tolist() == [True, True, True]
    watcher.join()
    assert read(tmp_path / "run")["train/i"] == [(0, 0.0), (0, 1.0), (0, 2.0)]


# ---- the README's commands ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "last"), [("demo", ".venv/bin/metriplex demo"), ("test", ".venv/bin/pytest")]
)
def test_the_readme_s_commands_are_whole(marker: str, last: str) -> None:
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(rf"<!-- {marker} -->\n+```console\n(.+)\n```\n", readme)
    steps = [shlex.split(step) for step in command.split("&&")]
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert shlex.join(steps[-1]) == last
    words = [word for step in steps[1:-1] for word in step]
    local = [word.partition("[")[0] for word in words if word.startswith((".", "backends/"))]
    paths = {path for path in local if not path.startswith(".venv/")}
    assert paths == {".", "backends/console", "backends/tensorboard"}
    for path in paths:
        assert (ROOT / path / "pyproject.toml").is_file()


# ---- the demo -----------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Demo:
    """Return the demo's output and its log directory."""

    status: int
    stdout: str
    stderr: str
    directory: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    here = tmp_path_factory.mktemp("demo")
    result = subprocess.run(
        [sys.executable, "-m", "metriplex", "demo"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    (directory,) = (here / "logs").iterdir()
    return Demo(result.returncode, result.stdout, result.stderr, directory)


@pytest.mark.slow
def test_the_demo_solves_cartpole_and_says_how_to_look_at_it(demo: Demo) -> None:
    assert demo.status == 0
    said = [line for line in demo.stderr.splitlines() if not line.startswith("waiting for ")]
    kinds = {re.split(r"[= ]", line)[0] for line in said}
    assert kinds <= {"run", "hparams", "step", "status"}  # the console's lines, and no warning
    assert re.fullmatch(r"PPO_CartPole\S*_\d{8}_\d{6}", demo.directory.name)
    solved = re.search(r"Solved: mean return ([\d.]+) ", demo.stdout)
    assert solved is not None
    assert SOLVED <= float(solved[1]) <= 500.0
    command = shlex.split(demo.stdout.strip().splitlines()[-1])
    assert command[1:] == ["--logdir", "logs", "--samples_per_plugin", "images=100"]
    assert Path(command[0]).name == "tensorboard"
    assert f"Run: {demo.directory}" in demo.stdout


@pytest.mark.slow
def test_the_learning_curve_climbs_to_a_solved_cartpole(demo: Demo) -> None:
    scalars = read(demo.directory)
    assert {tag.partition("/")[0] for tag in scalars} == {"episode", "train", "time"}
    curve = scalars["episode/return"]
    steps = [step for step, _ in curve]
    assert steps == sorted(set(steps))
    assert curve[0][1] < 50
    assert curve[-1][1] >= SOLVED
    assert len(scalars["train/loss"]) == len(scalars["train/learning_rate"]) == 200
    assert all(np.isfinite(value) for tag in scalars for _, value in scalars[tag])


# ---- TensorBoard --------------------------------------------------------------------------------


@contextmanager
def tensorboard(log_dir: Path) -> Generator[str]:
    """A real server on loopback, on a port of its choice; the URL that it says."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", "--load_fast", "false"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            said = []
            for line in server.stdout:
                said.append(line)
                if url := re.search(r" at (http://127\.0\.0\.1:\d+)/", line):
                    yield str(url[1])
                    break
            else:
                raise AssertionError("".join(said))
        finally:
            server.terminate()


def ask(url: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{url}{path}?{urlencode(query)}", timeout=60) as answer:
        return json.load(answer)


def ask_until(url: str, path: str, whole: Any) -> Any:
    """Asks until the server, which reads in the background, has read all that there is."""
    answer = None
    for _ in range(2000):
        answer = ask(url, path)
        if whole(answer):
            return answer
    raise AssertionError(f"the server has not read the run; it says {answer}")


@pytest.mark.slow
def test_tensorboard_shows_what_was_logged(demo: Demo) -> None:
    written, run = read(demo.directory), demo.directory.name
    with tensorboard(demo.directory.parent) as url:
        tags = ask_until(
            url, "/data/plugin/scalars/tags", lambda tags: len(tags.get(run, ())) == len(written)
        )
        assert list(tags) == [run]  # no phantom of hyper-parameters beside it
        assert set(tags[run]) == set(written)
        for tag, curve in written.items():
            events = ask(url, "/data/plugin/scalars/scalars", run=run, tag=tag)
            assert [(step, value) for _, step, value in events] == curve
        assert ask(url, "/data/runs") == [run]
        experiment = ask_hparams(url)
        names = {info["name"] for info in experiment["hparamInfos"]}
        assert {"seed", "learning_rate", "num_envs"} <= names


def ask_hparams(url: str) -> Any:
    request = urllib.request.Request(
        f"{url}/data/plugin/hparams/experiment",
        data=json.dumps({"experimentName": ""}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
