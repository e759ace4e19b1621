"""Environments that draw themselves, and another Python to draw in."""

from __future__ import annotations

import abc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import pytest

from metriplex import Viewport
from metriplex_pygame import HeadlessPygameRenderer


class State(NamedTuple):
    x: Any
    y: Any


class Abstract2DRenderer(abc.ABC):
    """The renderer class of a library whose environments accept no other class."""

    @abc.abstractmethod
    def draw_circle(self, center: Any, radius: Any, color: Any) -> None: ...


@final
class WindowRenderer(Abstract2DRenderer):
    """Opens a window as soon as it is made, as those for people do."""

    def __init__(self, width, height, scale, offset):
        import pygame

        pygame.init()
        self.screen = pygame.display.set_mode((width, height))
        self.transform = Viewport(width, height, scale, offset)
        self.background_color = (0.0, 0.0, 1.0)

    def draw_circle(self, center, radius, color):
        raise AssertionError("the environment drew into its own window")


@final
class Ball:
    """A red ball of radius 1 in a world of 8 by 6; draws only with its library's renderers."""

    name = "Ball"

    @property
    def unwrapped(self):
        return self

    def default_renderer(self):
        return WindowRenderer(800, 600, 100.0, (400.0, 300.0))

    def render(self, state, renderer):
        if not isinstance(renderer, Abstract2DRenderer):
            raise TypeError("Ball draws with an Abstract2DRenderer only")
        renderer.clear()
        renderer.draw_circle((state.x, state.y), radius=1.0, color=(1.0, 0.0, 0.0))
        renderer.draw()


@pytest.fixture
def ball():
    return Ball()


@pytest.fixture
def make_state():
    return lambda x, y: State(np.float32(x), np.float32(y))


@pytest.fixture
def make_canvas():
    """A black canvas on which a unit is a pixel and y points down, by default."""

    def make(width=40, height=30, scale=1.0, offset=(0.0, 0.0), y_up=False, **options):
        transform = Viewport(width, height, scale, offset, y_up)
        return HeadlessPygameRenderer(width, height, (0, 0, 0), transform, **options)

    return make


@pytest.fixture
def python(tmp_path):
    """Run a program in a fresh Python without a display, and return its output."""

    def run(program, *, stdin=b"", **environment):
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DISPLAY", "WAYLAND", "SDL_", "PYGAME_", "XLA_"))
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
            env={**inherited, "JAX_PLATFORMS": "cpu", **environment},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    return run


@pytest.fixture
def golden(tmp_path):
    """Compare a frame with the golden picture of that name."""

    def compare(frame, name):
        import pygame

        height, width, _ = frame.shape
        actual = tmp_path / f"{name}.png"
        pygame.image.save(pygame.image.frombuffer(frame, (width, height), "RGB"), actual)
        expected = pygame.image.load(Path(__file__).parent / "golden" / f"{name}.png")
        assert expected.get_size() == (width, height)
        pixels = np.frombuffer(pygame.image.tobytes(expected, "RGB"), np.uint8)
        difference = np.abs(frame.astype(int) - pixels.reshape(frame.shape))
        assert difference.max() <= 4, f"look at {actual}"
        assert difference.mean() <= 0.05, f"look at {actual}"

    return compare
