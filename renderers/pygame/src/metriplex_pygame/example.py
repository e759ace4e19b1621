"""A small example environment for the renderer."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import numpy as np

from metriplex import Viewport

_POSITIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@final
class BallState(NamedTuple):
    """State of the ball."""

    x: Any  # position to the right of the middle; float32 scalar


@final
class Ball:
    """A ball on a line in a world of 4 by 3, with the methods that drawing needs."""

    def default_renderer(self) -> Viewport:
        """Return the view of the world."""
        return Viewport(400, 300, scale=100.0, offset=(200.0, 150.0))

    def render(self, state: BallState, renderer: Any) -> None:
        """Draw a state."""
        renderer.clear()
        renderer.draw_line((-1.5, -0.3), (1.5, -0.3), color=(0.2, 0.2, 0.3), width=0.05)
        renderer.draw_circle((float(state.x), 0.0), radius=0.3, color=(0.9, 0.4, 0.1))
        renderer.draw()

    def states(self) -> list[BallState]:
        """Return states from the left to the right."""
        return [BallState(np.float32(x)) for x in _POSITIONS]
