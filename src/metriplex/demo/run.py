"""Run the demo: train PPO, log it, and show the results."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import jax

from metriplex import MetricsCallback, average_stats
from metriplex.demo import viewer
from metriplex.demo.policy import ActorCritic
from metriplex.demo.ppo import Config, train
from metriplex.demo.tasks import TASKS
from metriplex.errors import ConfigurationError
from metriplex.messages import print_line
from metriplex.plugins.discovery import entry_points

NUM_VIDEOS = 5
"""Number of videos, evenly spaced over the training."""

VIDEO_STEPS = 250
"""Steps per video: five seconds, because a step of both environments takes 20 ms."""

CLOSE_TIMEOUT = 120.0
"""Seconds that the last videos may take; on an idle machine all videos take about ten."""


def run(
    *,
    env: str = "cartpole",
    log_dir: str | Path = "logs",
    seed: int = 0,
    backends: object = ("tensorboard", "console"),
    videos: bool = True,
    open_browser: bool = False,
    config: Config | None = None,
) -> int:
    """Train PPO on a task of `TASKS`, and print its result and the command that shows the run.

    `config=None` takes the configuration of the task, which solves it. `videos` records evaluation
    videos if a renderer is installed. `open_browser` starts TensorBoard, opens the browser, and
    waits for Ctrl-C.

    Returns:
        The exit status: 0 if the task was solved, else 1.
    """
    if env not in TASKS:
        raise ConfigurationError(f"`env` must be one of {', '.join(TASKS)}; got {env!r}")
    task = TASKS[env]
    config = config or task.config
    made = task.make_env()
    lacking = _lacking_for_videos(task.renderer)
    recording = videos and not lacking
    started = time.perf_counter()
    with MetricsCallback(
        env=made,
        policy=ActorCritic,
        log_dir=str(log_dir),
        backends=list(backends) if isinstance(backends, tuple) else backends,
        hparams=asdict(config) | {"hidden": str(config.hidden), "seed": seed},
        total_steps=config.total_steps,
        video_interval=max(1, (config.num_iterations - 1) // (NUM_VIDEOS - 1)) * recording,
        video_num_steps=VIDEO_STEPS,
    ) as metrics:
        trained = jax.block_until_ready(train(metrics, jax.random.key(seed), config, made))
        directory = metrics.directory
        seconds = time.perf_counter() - started
        if recording:
            _say(f"Trained. Waiting for the last videos, for at most {CLOSE_TIMEOUT:.0f} s.")
        metrics.close(CLOSE_TIMEOUT)

    assert trained.metrics is not None
    final_return, _, finished = average_stats(trained.metrics.episodes)
    solved = bool(finished) and float(final_return) >= task.solved_return
    reached = f"mean return {float(final_return):.1f}" if finished else "no episode finished"
    _say(
        f"{'Solved' if solved else 'Not solved'}: {reached} ({task.solved_return:.0f} solves "
        f"{made.name}) after {config.total_steps:,} steps in {seconds:.1f} s."
    )
    _say(f"Run: {directory}")
    if any(directory.glob("*tfevents*")):
        if videos and lacking:
            verb = "is" if len(lacking) == 1 else "are"
            _say(f"No videos: {' and '.join(lacking)} {verb} not installed. To install:")
            _say(f"  {viewer.shell_line(viewer.install_command(*lacking))}")
        _view(Path(log_dir), recorded=recording, open_browser=open_browser)
    elif open_browser:
        _say("Nothing to open: the run was not logged to TensorBoard.")
    return 0 if solved else 1


def _lacking_for_videos(renderer: str) -> list[str]:
    """Return the names of missing distributions that videos need."""
    lacking = [
        name
        for name, module in (("cloudpickle", "cloudpickle"), ("imageio-ffmpeg", "imageio_ffmpeg"))
        if find_spec(module) is None
    ]
    if all(entry.name != renderer for entry in entry_points("renderer")):
        lacking.append(f"metriplex-{renderer}")
    return lacking


def _view(log_dir: Path, *, recorded: bool, open_browser: bool) -> None:
    program = viewer.find_program()
    where = ", its videos in the tab IMAGES" if recorded else ""
    if program is None:
        _say("TensorBoard, the viewer, is not installed. To install it:")
        _say(f"  {viewer.shell_line(viewer.install_command('tensorboard'))}")
    elif open_browser:
        if recorded:
            _say("Its videos are in the tab IMAGES.")
        viewer.serve(program, log_dir, _say)
    else:
        _say(f"To see it in TensorBoard{where}:")
        _say(f"  {viewer.shell_line(viewer.command(program, log_dir))}")


def _say(line: str) -> None:
    print_line(line)
