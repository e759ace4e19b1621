from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import metriplex
from memory import Memory
from metriplex.demo import run, viewer
from metriplex.demo.ppo import Config
from metriplex.errors import ConfigurationError, PluginError

SHORT = Config(num_envs=4, rollout_length=32, num_iterations=3, hidden=(16,))


@pytest.fixture
def empty_path(tmp_path, monkeypatch):
    """A PATH on which nothing is found."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


@pytest.mark.long
def test_a_training_that_is_too_short_is_not_solved(tmp_path, capsys, empty_path):
    log_dir = tmp_path / "my logs"
    assert run(log_dir=log_dir, seed=7, backends=("tensorboard",), videos=False, config=SHORT) == 1
    verdict, where, _, command = capsys.readouterr().out.splitlines()
    found = re.fullmatch(
        r"Not solved: mean return (\S+) \(475 solves CartPole\) after 384 steps in \S+ s\.", verdict
    )
    assert found is not None
    assert 8 <= float(found[1]) <= 128
    (directory,) = log_dir.iterdir()
    assert where == f"Run: {directory}"
    assert re.fullmatch(r"PPO_CartPole_\d{8}_\d{6}", directory.name)
    program, *arguments = shlex.split(command)
    assert Path(program).is_absolute()
    assert arguments[-4:] == ["--logdir", str(log_dir), "--samples_per_plugin", "images=100"]


@pytest.mark.parametrize(
    ("env", "plugin"),
    [
        ("cartpole", "metriplex_pygame"),
        pytest.param("pendulum", "metriplex_mujoco", marks=pytest.mark.slow),
    ],
)
@pytest.mark.long
def test_the_agent_is_shown_from_the_first_iteration_on(tmp_path, capsys, env, plugin, monkeypatch):
    pytest.importorskip(plugin)
    if env == "pendulum":
        pytest.importorskip("mujoco.mjx")
    monkeypatch.setattr(sys.modules["metriplex.demo.run"], "VIDEO_STEPS", 10)
    monkeypatch.setattr(sys.modules["metriplex.demo.run"], "CLOSE_TIMEOUT", 1000.0)

    memory = Memory()
    config = Config(num_envs=4, rollout_length=8, num_iterations=9, num_minibatches=1, hidden=(4,))
    run(env=env, log_dir=tmp_path, backends=[memory, "tensorboard"], config=config)
    assert sorted(video.step for video in memory.videos) == [32 * n for n in (1, 3, 5, 7, 9)]
    for video in memory.videos:
        assert set(video.clips) == {"gif", "mp4"}
        assert all(clip.num_frames == 10 for clip in video.clips.values())
    *before, where, command = capsys.readouterr().out.splitlines()
    assert "Trained. Waiting for the last videos, for at most 1000 s." in before
    assert where == "To see it in TensorBoard, its videos in the tab IMAGES:"
    assert command.endswith("--samples_per_plugin images=100")


@pytest.mark.long
def test_what_videos_lack_is_said_in_two_lines_and_warned_of_nowhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["metriplex.demo.run"], "entry_points", lambda kind: [])
    config = Config(num_envs=1, rollout_length=4, num_iterations=1, hidden=(4,))
    run(log_dir=tmp_path, backends="tensorboard", config=config)
    said = capsys.readouterr()
    _, _, lacking, command, where, _ = said.out.splitlines()
    assert lacking == "No videos: metriplex-pygame is not installed. To install:"
    assert command.endswith("install metriplex-pygame")
    assert where == "To see it in TensorBoard:"
    assert said.err == ""


def test_an_unknown_task_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="one of cartpole, pendulum; got 'chess'"):
        run(env="chess", log_dir=tmp_path)


@pytest.mark.long
def test_another_backend_gets_the_run_and_tensorboard_is_not_mentioned(tmp_path, capsys):
    class Keeper:
        @metriplex.hookimpl
        def open_run(self, run):
            self.total_steps = run.total_steps

        @metriplex.hookimpl
        def log_hparams(self, hparams):
            self.hparams = hparams

        @metriplex.hookimpl
        def log_scalars(self, records):
            self.last = records[-1]

    keeper = Keeper()
    assert run(log_dir=tmp_path, seed=7, backends=[keeper], open_browser=True, config=SHORT) == 1
    assert keeper.total_steps == keeper.last.step == 384
    assert keeper.hparams["seed"] == 7
    assert keeper.hparams["num_envs"] == 4
    out = capsys.readouterr().out
    assert f"mean return {keeper.last.values['episode/return']:.1f}" in out
    assert "--logdir" not in out
    assert out.splitlines()[-1] == "Nothing to open: the run was not logged to TensorBoard."


def test_what_cannot_be_logged_to_is_an_error_before_training(tmp_path):
    with pytest.raises(PluginError, match="no_such_backend"):
        run(log_dir=tmp_path, backends=["no_such_backend"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="log_dir"):
        run(log_dir=tmp_path / "file", backends=[])


def test_tensorboard_on_the_path_is_preferred(empty_path):
    program = empty_path / "tensorboard"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert viewer.find_program() == ["tensorboard"]


def test_else_the_one_of_this_environment_is_called_by_its_full_path(empty_path):
    program = viewer.find_program()
    assert program is not None
    shown = subprocess.run(
        shlex.split(viewer.shell_line([*program, "--version"])),
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.match(r"\d+\.\d+", shown.stdout.strip().splitlines()[-1])


@pytest.mark.long
def test_where_it_is_not_installed_the_command_that_installs_it_is_shown(
    tmp_path, capsys, empty_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # what Python takes for "not there"
    config = Config(num_envs=1, rollout_length=4, num_iterations=1, hidden=(4,))
    assert run(log_dir=tmp_path / "logs", backends="tensorboard", videos=False, config=config) == 1
    verdict, _, explanation, command = capsys.readouterr().out.splitlines()
    assert verdict.startswith("Not solved: no episode finished (475 solves CartPole) after 4 steps")
    assert explanation == "TensorBoard, the viewer, is not installed. To install it:"
    assert shlex.split(command) == [sys.executable, "-m", "pip", "install", "tensorboard"]


def test_without_pip_uv_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    expected = f"uv pip install --python {shlex.quote(sys.executable)} tensorboard"
    assert viewer.shell_line(viewer.install_command("tensorboard")) == expected


def test_a_viewer_that_ends_by_itself_is_reported(tmp_path):
    said: list[str] = []
    program = [sys.executable, "-c", "import sys; print('no such port'); sys.exit(3)"]
    viewer.serve(program, tmp_path, said.append)
    assert said == ["TensorBoard ended with status 3.", "no such port"]


@pytest.mark.slow
def test_the_demo_solves_cartpole_and_tensorboard_shows_it(tmp_path):
    """Train, serve, read the curve over HTTP, stop with Ctrl-C."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    script = (
        "import sys; from metriplex.demo import run; "
        "sys.exit(run(backends=['tensorboard'], videos=False, open_browser=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment | {"BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Solved: mean return ")
            run_name = Path(process.stdout.readline().split()[1]).name
            url = process.stdout.readline().split()[1]
            assert url.startswith("http://127.0.0.1:")
            returns = load_returns(url, run_name)
            process.send_signal(signal.SIGINT)
            assert process.stdout.read().strip() == "TensorBoard stopped."
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert (tmp_path / "opened").read_text().strip() == url
    assert returns[0][1] == 2048
    assert returns[0][2] < 50
    assert returns[-1][1] == Config().total_steps
    assert returns[-1][2] >= 475
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def load_returns(url: str, run_name: str) -> list[list[float]]:
    """Wall time, step and value of each return, once TensorBoard has read the whole run."""
    query = f"{url}data/plugin/scalars/scalars?run={run_name}&tag=episode/return"
    returns: Any = []
    deadline = time.monotonic() + 120
    while not returns or returns[-1][1] < Config().total_steps:
        assert time.monotonic() < deadline, f"TensorBoard has {len(returns)} returns"
        time.sleep(0.1)  # it tells nobody when it has read more
        try:
            with urllib.request.urlopen(query, timeout=10) as answer:
                returns = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 404:  # which means that it does not know the run yet
                raise
    return returns
