"""What `metriplex demo` does."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

import jax

from metriplex import MetricsCallback
from metriplex.demo import viewer
from metriplex.demo.cartpole import CartPole
from metriplex.demo.policy import ActorCritic
from metriplex.demo.ppo import Config, train
from metriplex.episodes import averages

SOLVED_RETURN = 475.0
"""Mean return at which CartPole-v1 counts as solved; the best possible is 500."""


def run(
    *,
    log_dir: str | Path = "logs",
    seed: int = 0,
    backends: object = ("tensorboard", "console"),
    open_browser: bool = False,
    config: Config | None = None,
) -> int:
    """Trains PPO on CartPole, logs it, and says how it went and how to look at it.

    Args:
        log_dir: Where the run's directory is made.
        seed: Of everything random.
        backends: As `MetricsCallback` takes them.
        open_browser: Also start TensorBoard, open the browser, and wait for Ctrl-C.
        config: How to train; None takes the defaults, which solve CartPole.

    Returns:
        The exit status: 0 if CartPole was solved, else 1.

    Raises:
        ConfigurationError: `log_dir` or `backends` is not usable.
        PluginError: A backend is not installed, or broken.
    """
    config = config or Config()
    env = CartPole()
    started = time.perf_counter()
    with MetricsCallback(
        env=env,
        policy=ActorCritic,
        log_dir=str(log_dir),
        backends=list(backends) if isinstance(backends, tuple) else backends,
        hparams=asdict(config) | {"hidden": str(config.hidden), "seed": seed},
        total_steps=config.total_steps,
    ) as metrics:
        trained = jax.block_until_ready(train(metrics, jax.random.key(seed), config, env))
        directory = metrics.directory
    seconds = time.perf_counter() - started

    assert trained.metrics is not None
    final_return, _, finished = averages(trained.metrics.episodes)
    solved = bool(finished) and float(final_return) >= SOLVED_RETURN
    reached = f"mean return {float(final_return):.1f}" if finished else "no episode finished"
    _say(
        f"{'Solved' if solved else 'Not solved'}: {reached} ({SOLVED_RETURN:.0f} solves "
        f"{env.name}) after {config.total_steps:,} steps in {seconds:.1f} s."
    )
    _say(f"Run: {directory}")
    if any(directory.glob("*tfevents*")):
        _view(Path(log_dir), open_browser=open_browser)
    elif open_browser:
        _say("Nothing to open: the run was not logged to TensorBoard.")
    return 0 if solved else 1


def _view(log_dir: Path, *, open_browser: bool) -> None:
    program = viewer.find_program()
    if program is None:
        _say("TensorBoard, the viewer, is not installed. To install it:")
        _say(f"  {viewer.shell_line(viewer.install_command())}")
    elif open_browser:
        viewer.serve(program, log_dir, _say)
    else:
        _say("To see it in TensorBoard:")
        _say(f"  {viewer.shell_line([*program, '--logdir', str(log_dir)])}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
