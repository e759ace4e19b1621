"""What renderer and environment plugins provide for evaluation videos."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Renderer(abc.ABC):
    """Draws states of one environment; what the hook `make_renderer` gives.

    It is made in the training process and sent to the process that draws (by cloudpickle), so it
    holds nothing but descriptions until the first `render`: no GL context, no surface, no window.
    `render` and `close` are called from one thread of the drawing process, one after another.
    """

    @abc.abstractmethod
    def select(self, state: Any) -> Any:
        """Picks from an environment's state what drawing needs; traced into the program.

        Args:
            state: One state of the environment, a pytree whose leaves may be traced.

        Returns:
            A pytree of arrays, as small as possible: it is sent to the host for every frame.
        """

    @abc.abstractmethod
    def render(self, selected: Any) -> np.ndarray:
        """Draws one frame.

        Args:
            selected: What `select` gave, as NumPy arrays.

        Returns:
            uint8 `[height, width, 3]`, RGB, of the size that `make_renderer` was asked for; a new
            array, or one that is overwritten by the next call.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Releases everything; may be called twice, and without a `render` before.

        A `render` after it raises an exception, such as `metriplex.ClosedError`.
        """


class Environment(abc.ABC):
    """What a rollout needs of an environment; what the hook `adapt_environment` gives.

    All methods are pure functions that jax can trace; `key` is a typed PRNG key.

    Attributes:
        traceable: Set it to False where that is not so, as for a simulator that steps in Python:
            rollouts are then played step by step on the host, off the training path, and the arrays
            of the policy are sent there for each. `step` gets actions as NumPy arrays.
    """

    traceable: bool = True

    @abc.abstractmethod
    def reset(self, key: Any) -> Any:
        """The first state of an episode, a pytree of arrays."""

    @abc.abstractmethod
    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, Any]:
        """The next state, of the same structure, and whether the episode ends with it (bool [])."""

    @abc.abstractmethod
    def observe(self, state: Any, key: Any) -> Any:
        """The observation that the policy is given."""

    def action_mask(self, state: Any, key: Any) -> Any:  # noqa: ARG002 - for those who have one
        """Which actions are allowed, as the policy takes it; None if all are."""
        return None
