"""What the demo can train for: an environment, how to train for it, and what draws it."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from typing import final

from metriplex.demo.cartpole import CartPole
from metriplex.demo.environment import Environment  # noqa: TC001 - part of public annotations
from metriplex.demo.pendulum import Pendulum
from metriplex.demo.ppo import Config


@final
@dataclass(frozen=True)
class Task:
    """Something to learn.

    Attributes:
        make_env: Makes the environment.
        config: Learns it within `solved_return`, with room to spare.
        solved_return: Mean return at which it counts as solved.
        renderer: Name of the renderer plugin that draws it.
    """

    make_env: Callable[[], Environment]
    config: Config
    solved_return: float
    renderer: str


TASKS = {
    "cartpole": Task(CartPole, Config(), 475.0, "pygame"),
    "pendulum": Task(
        Pendulum,
        Config(
            num_envs=64,
            rollout_length=64,
            num_iterations=250,
            gamma=0.99,
            gae_lambda=0.95,
            advantage_floor=0.1,
        ),
        400.0,
        "mujoco",
    ),
}
"""By the name that `metriplex demo --env` takes.

The best return of CartPole is 500, and what Gymnasium calls solved is 475 for CartPole-v1. The
pendulum can't earn 500, for it has to be swung up first: 400 is upright within two seconds, then
balanced.
"""
