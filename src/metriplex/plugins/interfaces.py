"""Interfaces that renderer and environment plugins implement for evaluation videos."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Renderer(abc.ABC):
    """Draws states of one environment; the result of the hook `make_renderer`.

    A renderer is made in the training process and sent to the drawing process (by cloudpickle). So
    it holds only descriptions until the first `render`: no GL context, no surface, no window.
    `render` and `close` are called from one thread of the drawing process, one after another.
    """

    @abc.abstractmethod
    def select(self, state: Any) -> Any:
        """Return the part of an environment's state that drawing needs; traced into the program.

        Args:
            state: One state of the environment, a pytree whose leaves may be traced.

        Returns:
            A pytree of arrays, as small as possible: it is sent to the host for every frame.
        """

    @abc.abstractmethod
    def render(self, selected: Any) -> np.ndarray:
        """Draw one frame.

        Args:
            selected: The result of `select`, as NumPy arrays.

        Returns:
            uint8 `[height, width, 3]`, RGB, of the size that `make_renderer` was asked for; a new
            array, or an array that the next call overwrites.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; may be called twice, and without a `render` before.

        A later `render` raises an exception, such as `metriplex.ClosedError`.
        """


class Environment(abc.ABC):
    """An environment as a rollout needs it; the result of the hook `adapt_environment`.

    All methods are pure functions that jax can trace; `key` is a typed PRNG key.

    Attributes:
        traceable: False if jax can't trace the methods, as for a simulator that steps in Python.
            Rollouts are then played step by step on the host, off the training path, and the
            policy's arrays are sent there for each rollout. `step` gets actions as NumPy arrays.
    """

    traceable: bool = True

    @abc.abstractmethod
    def reset(self, key: Any) -> Any:
        """Return the first state of an episode, a pytree of arrays."""

    @abc.abstractmethod
    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, Any]:
        """Return the next state, of the same structure, and if the episode ends there (bool [])."""

    @abc.abstractmethod
    def observe(self, state: Any, key: Any) -> Any:
        """Return the policy's observation of a state."""

    def action_mask(self, state: Any, key: Any) -> Any:  # noqa: ARG002 - for subclasses
        """Return the mask of allowed actions, as the policy takes it; None if all are allowed."""
        return None
