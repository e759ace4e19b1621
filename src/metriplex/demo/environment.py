"""The protocols of environments, policies and 2D renderers that the demo speaks."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

import jax  # noqa: TC002 - part of public annotations

Color: TypeAlias = tuple[float, float, float]
"""Red, green and blue, each in [0, 1]."""

Point: TypeAlias = tuple[float, float]
"""A position in world units."""


@final
@dataclass(frozen=True, slots=True)
class Transform:
    """Maps world units to pixels: `pixel = point * scale + offset`.

    With `y_up` the vertical result is measured from the bottom edge of the picture, so it becomes
    `height - pixel`.

    Attributes:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        scale: Pixels a world unit.
        offset: Where the world's origin lies, in pixels.
        y_up: Whether the world's y axis points up (a picture's points down).
    """

    width: int
    height: int
    scale: float
    offset: Point = (0.0, 0.0)
    y_up: bool = True

    def to_pixel(self, point: Point) -> Point:
        """Maps a point of the world to a position in the picture.

        Args:
            point: In world units.

        Returns:
            Pixels to the right of the left edge, and below the top edge.

        Examples:
            >>> Transform(width=640, height=480, scale=100.0, offset=(320.0, 80.0)).to_pixel((1, 0))
            (420.0, 400.0)
        """
        right = point[0] * self.scale + self.offset[0]
        down = point[1] * self.scale + self.offset[1]
        return right, self.height - down if self.y_up else down


@final
@dataclass(frozen=True, slots=True)
class Viewport:
    """What an environment wants its pictures to show; a renderer is built from it.

    Attributes:
        transform: From world units to pixels.
        background_color: Colour of an empty picture.
    """

    transform: Transform
    background_color: Color = (1.0, 1.0, 1.0)

    @property
    def width(self) -> int:
        """Width of the picture in pixels."""
        return self.transform.width

    @property
    def height(self) -> int:
        """Height of the picture in pixels."""
        return self.transform.height


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
