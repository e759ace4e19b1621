"""Tasks of the demo: an environment, the configuration that solves it, and its renderer."""

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
    """A task of the demo.

    Attributes:
        make_env: Makes the environment.
        config: Configuration that reaches more than `solved_return`.
        solved_return: Mean return that counts as solved.
        renderer: Name of the renderer plugin that draws the environment.
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
"""Tasks by the name that `metriplex demo --env` takes.

The best return of CartPole is 500; Gymnasium considers CartPole-v1 solved at 475. The pendulum
can't reach 500, because the swing-up takes time: 400 means upright within two seconds, then
balanced.
"""
