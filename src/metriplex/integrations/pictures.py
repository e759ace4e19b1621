"""Pictures of classic control and grid worlds, drawn with the calls of a 2D renderer; no jax."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np

from metriplex.plugins.viewport import Viewport

Point: TypeAlias = "tuple[float, float]"

BLACK = (0.0, 0.0, 0.0)
GRAY = (0.55, 0.57, 0.6)
WOOD = (0.79, 0.6, 0.4)
BLUE = (0.3, 0.42, 0.75)
TEAL = (0.0, 0.62, 0.62)
RED = (0.8, 0.3, 0.3)
GREEN = (0.25, 0.6, 0.3)
CELLS = (
    *((0.38, 0.69, 0.94), (0.97, 0.76, 0.26), (0.9, 0.36, 0.32), (0.44, 0.8, 0.47)),
    *((0.72, 0.52, 0.9), (0.95, 0.55, 0.75), (0.98, 0.98, 0.98), (0.55, 0.4, 0.3)),
    *((0.3, 0.85, 0.85), (0.6, 0.6, 0.6)),
)
"""Colours of a grid's channels; they repeat after the last one."""


class Picture(abc.ABC):
    """Draw the states of one environment."""

    @abc.abstractmethod
    def default_renderer(self) -> Viewport:
        """Return the part of the world that is shown."""

    @abc.abstractmethod
    def render(self, state: Any, renderer: Any) -> None:
        """Draw a state: names to NumPy arrays of size one, or an array of cells."""


@final
@dataclass(frozen=True)
class CartPole(Picture):
    """A cart and the pole on it."""

    reach: float = 2.4  # longest distance of the cart from the middle, m
    length: float = 0.5  # half of the pole's length, m

    def default_renderer(self) -> Viewport:
        """See `Picture.default_renderer`."""
        return Viewport(600, 400, 300 / self.reach, (300, 100))

    def render(self, state: Any, renderer: Any) -> None:
        """See `Picture.render`; the state has `x` and `theta`."""
        x, theta = _number(state["x"]), _number(state["theta"])
        axle = (x, 0.08)
        renderer.draw_line((-2 * self.reach, 0.0), (2 * self.reach, 0.0), BLACK, 0.01)
        renderer.draw_rect((x, 0.0), 0.4, 0.24, BLACK)
        renderer.draw_line(axle, _along(axle, theta, 2 * self.length), WOOD, 0.08)
        renderer.draw_circle(axle, 0.04, BLUE)


@final
@dataclass(frozen=True)
class MountainCar(Picture):
    """A car in a valley, and the flag to reach."""

    left: float = -1.2  # end of the track
    right: float = 0.6
    goal: float = 0.5  # position of the flag

    def default_renderer(self) -> Viewport:
        """See `Picture.default_renderer`."""
        scale = 600 / (self.right - self.left)
        return Viewport(600, 400, scale, (-self.left * scale, 10))

    def render(self, state: Any, renderer: Any) -> None:
        """See `Picture.render`; the state has `position`."""
        x = _number(state["position"])
        track = np.linspace(self.left, self.right, 100)
        renderer.draw_polyline(np.stack([track, _height(track)], axis=1), BLACK)
        foot = (self.goal, float(_height(self.goal)))
        top = (self.goal, foot[1] + 0.16)
        renderer.draw_line(foot, top, BLACK, 0.005)
        renderer.draw_polygon(np.add(top, [(0.0, 0.0), (0.0, -0.05), (0.08, -0.025)]), RED)
        slope = np.array([1.0, 1.35 * np.cos(3 * x)])
        along = slope / np.linalg.norm(slope)
        up = np.array([-along[1], along[0]])
        ground = np.array([x, float(_height(x))])
        body = [(-0.06, 0.02), (0.06, 0.02), (0.06, 0.07), (-0.06, 0.07)]
        renderer.draw_polygon(np.stack([ground + a * along + b * up for a, b in body]), BLUE)
        for wheel in (-0.035, 0.035):
            renderer.draw_circle(ground + wheel * along + 0.02 * up, 0.02, GRAY)


@final
@dataclass(frozen=True)
class Pendulum(Picture):
    """A rod that turns about its end; the angle 0 is upright."""

    length: float = 1.0  # m

    def default_renderer(self) -> Viewport:
        """See `Picture.default_renderer`."""
        return Viewport(400, 400, 180 / self.length / 1.1, (200, 200))

    def render(self, state: Any, renderer: Any) -> None:
        """See `Picture.render`; the state has `theta`, positive to the left."""
        tip = _along((0.0, 0.0), -_number(state["theta"]), self.length)
        renderer.draw_line((0.0, 0.0), tip, RED, 0.2 * self.length)
        renderer.draw_circle((0.0, 0.0), 0.05 * self.length, BLACK)


@final
@dataclass(frozen=True)
class Acrobot(Picture):
    """Two links that hang from a joint, and the height to reach."""

    first: float = 1.0  # length of the upper link, m
    second: float = 1.0  # length of the lower link, m

    def default_renderer(self) -> Viewport:
        """See `Picture.default_renderer`."""
        return Viewport(500, 500, 250 / (self.first + self.second + 0.2), (250, 250))

    def render(self, state: Any, renderer: Any) -> None:
        """See `Picture.render`; the state has `joint_angle1`, `joint_angle2`; 0 is down."""
        upper = _number(state["joint_angle1"])
        lower = upper + _number(state["joint_angle2"])
        elbow = _along((0.0, 0.0), np.pi - upper, self.first)
        tip = _along(elbow, np.pi - lower, self.second)
        renderer.draw_line((-9.0, self.first), (9.0, self.first), BLACK, 0.01)
        renderer.draw_line((0.0, 0.0), elbow, TEAL, 0.2)
        renderer.draw_line(elbow, tip, TEAL, 0.2)
        for joint in ((0.0, 0.0), elbow):
            renderer.draw_circle(joint, 0.1, GREEN)


@final
@dataclass(frozen=True)
class Cells(Picture):
    """A grid of coloured cells."""

    rows: int
    columns: int

    def default_renderer(self) -> Viewport:
        """See `Picture.default_renderer`."""
        scale = 400 / max(self.rows, self.columns)
        size = round(self.columns * scale), round(self.rows * scale)
        return Viewport(*size, scale, background_color=BLACK)

    def render(self, state: Any, renderer: Any) -> None:
        """See `Picture.render`; the state is `[rows, columns]`, the top row first; 0 is empty."""
        cells = np.asarray(state)
        for row, column in np.argwhere(cells):
            color = CELLS[(int(cells[row, column]) - 1) % len(CELLS)]
            renderer.draw_rect((column + 0.5, self.rows - row - 0.5), 1.0, 1.0, color)


def _number(value: Any) -> float:
    return float(np.asarray(value).reshape(()))


def _along(start: Point, angle: float, length: float) -> Point:
    """Return the point at a distance from `start`; the angle is clockwise from upright."""
    return start[0] + length * float(np.sin(angle)), start[1] + length * float(np.cos(angle))


def _height(x: Any) -> Any:
    return 0.45 * np.sin(3 * np.asarray(x)) + 0.55
