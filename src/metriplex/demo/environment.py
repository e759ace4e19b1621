"""Protocols of the demo's environments and 2D renderers."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from typing import Any, Protocol, TypeAlias

import jax  # noqa: TC002 - part of public annotations

Color: TypeAlias = tuple[float, float, float]
"""Red, green and blue, each in [0, 1]."""

Point: TypeAlias = tuple[float, float]
"""A position in world units."""


class Renderer(Protocol):
    """The drawing calls of `render`; lengths and positions are in world units."""

    def clear(self) -> None:
        """Start an empty picture."""

    def draw_circle(self, center: Point, radius: float, color: Color) -> None:
        """Draw a filled disc."""

    def draw_line(self, start: Point, end: Point, color: Color, width: float) -> None:
        """Draw a segment of thickness `width`."""

    def draw_rect(self, center: Point, w: float, h: float, color: Color) -> None:
        """Draw a filled rectangle with sides parallel to the axes."""

    def draw_polygon(self, points: Sequence[Point], color: Color) -> None:
        """Draw a filled polygon."""

    def draw_text(self, center: Point, text: str, color: Color, size: float) -> None:
        """Draw a line of text; `size` is its height in pixels of the default view."""

    def draw(self) -> None:
        """Finish the picture."""


class Environment(Protocol):
    """An environment with discrete actions; every method is traceable.

    `state` is a pytree, `key` a JAX PRNG key. An environment is immutable and hashable, so it can
    be a static argument of a jitted function. Only `num_actions` is not part of the callback pattern.
    The environment's `render` or MuJoCo draws its states.
    """

    @property
    def name(self) -> str:
        """The name of the environment, used in run names, such as `CartPole`."""

    @property
    def unwrapped(self) -> Any:
        """The innermost environment; the environment itself if it wraps no other."""

    @property
    def num_actions(self) -> int:
        """The number of actions; actions are the integers below it."""

    def initial(self, *, key: jax.Array) -> Any:
        """Draw the first state of an episode."""

    def transition(self, state: Any, action: jax.Array, *, key: jax.Array) -> Any:
        """Return the state one step later."""

    def observation(self, state: Any, *, key: jax.Array) -> jax.Array:
        """Return the observation for the policy: a vector of floats."""

    def action_mask(self, state: Any, *, key: jax.Array) -> jax.Array | None:
        """Return the mask of allowed actions, bool `[num_actions]`; None allows all."""

    def reward(
        self, state: Any, action: jax.Array, next_state: Any, *, key: jax.Array
    ) -> jax.Array:
        """Return the reward of a step, a float scalar."""

    def terminal(self, state: Any, *, key: jax.Array) -> jax.Array:
        """Return True if the state terminates the episode; later rewards are 0."""

    def truncate(self, state: Any) -> jax.Array:
        """Return True if the episode is truncated in this state; later rewards are unknown."""
