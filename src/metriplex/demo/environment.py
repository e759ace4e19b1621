"""The protocols of environments, policies and 2D renderers that the demo speaks."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from typing import Any, Protocol, TypeAlias

import jax  # noqa: TC002 - part of public annotations

Color: TypeAlias = tuple[float, float, float]
"""Red, green and blue, each in [0, 1]."""

Point: TypeAlias = tuple[float, float]
"""A position in world units."""


class Renderer(Protocol):
    """The 2D calls that `render` may make; lengths and positions are in world units."""

    def clear(self) -> None:
        """Starts an empty picture."""

    def draw_circle(self, center: Point, radius: float, color: Color) -> None:
        """Draws a filled disc."""

    def draw_line(self, start: Point, end: Point, color: Color, width: float) -> None:
        """Draws a segment that is `width` thick."""

    def draw_rect(self, center: Point, w: float, h: float, color: Color) -> None:
        """Draws a filled rectangle, its sides parallel to the axes."""

    def draw_polygon(self, points: Sequence[Point], color: Color) -> None:
        """Draws a filled polygon."""

    def draw_text(self, center: Point, text: str, color: Color, size: float) -> None:
        """Writes a line of text; `size` is its height in pixels of the default view."""

    def draw(self) -> None:
        """Finishes the picture."""


class Environment(Protocol):
    """An environment with discrete actions; every method is traceable.

    `state` is a pytree, `key` a JAX PRNG key. An environment is immutable and hashable, so that it
    can be a static argument of a jitted function. Of all this, only `num_actions` goes beyond what
    any environment of the pattern has. How it is drawn is a matter of its own: by its `render`, or
    by MuJoCo.
    """

    @property
    def name(self) -> str:
        """Names runs: `CartPole`."""

    @property
    def unwrapped(self) -> Any:
        """The innermost environment, this one if it wraps none."""

    @property
    def num_actions(self) -> int:
        """Actions are the integers below this."""

    def initial(self, *, key: jax.Array) -> Any:
        """Draws the state in which an episode starts."""

    def transition(self, state: Any, action: jax.Array, *, key: jax.Array) -> Any:
        """Advances the state by one step."""

    def observation(self, state: Any, *, key: jax.Array) -> jax.Array:
        """What the policy sees of the state: a vector of floats."""

    def action_mask(self, state: Any, *, key: jax.Array) -> jax.Array | None:
        """Which actions are allowed, bool `[num_actions]`; None if all always are."""

    def reward(
        self, state: Any, action: jax.Array, next_state: Any, *, key: jax.Array
    ) -> jax.Array:
        """The reward of a step: a float scalar."""

    def terminal(self, state: Any, *, key: jax.Array) -> jax.Array:
        """Whether the state ends the episode, so that nothing can be earned after it."""

    def truncate(self, state: Any) -> jax.Array:
        """Whether the episode is cut off in this state, though more could be earned."""
