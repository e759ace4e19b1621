from __future__ import annotations

import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, final

import cloudpickle
import jax.numpy as jnp
import numpy as np
import pytest

import metriplex
from metriplex_pygame import DrawingError, PygameRenderer, PygameRendererPlugin
from metriplex_pygame.sdl import load_pygame

RED, BLUE, SAND = [255, 0, 0], [0, 0, 255], [230, 217, 178]


def make(env: Any, width=80, height=60, **options) -> Any:
    return PygameRendererPlugin(**options).make_renderer(env, width, height)


class CartPoleState(NamedTuple):
    position: Any
    angle: Any


@final
class CartPole:
    """A cart-pole whose picture has every kind of shape."""

    def default_renderer(self):
        transform = metriplex.Viewport(640, 480, 120.0, (320.0, 168.0))
        return SimpleNamespace(transform=transform, background_color=(0.97, 0.97, 0.98))

    def render(self, state, renderer):
        x, angle, limit = float(state.position), float(state.angle), math.radians(12.0)
        steel, slate, danger = (0.62, 0.66, 0.71), (0.18, 0.23, 0.32), abs(angle) / limit

        def along_pole(angle, distance):
            return x + distance * math.sin(angle), 0.25 + distance * math.cos(angle)

        sector = [along_pole(limit * step / 8, 1.25) for step in range(-8, 9)]
        renderer.clear()
        renderer.draw_polygon(
            points=[(x, 0.25), *sector],
            color=(0.88 + 0.09 * danger, 0.93 - 0.17 * danger, 0.91 - 0.19 * danger),
        )
        renderer.draw_line(start=(-2.4, 0.0), end=(2.4, 0.0), color=steel, width=0.03)
        for mark, height in ((-2.4, 0.12), (0.0, 0.06), (2.4, 0.12)):
            renderer.draw_line(start=(mark, -height), end=(mark, 0.0), color=steel, width=0.03)
        for wheel in (x - 0.13, x + 0.13):
            renderer.draw_circle(center=(wheel, 0.065), radius=0.05, color=steel)
        renderer.draw_rect(center=(x, 0.17), w=0.44, h=0.16, color=slate)
        renderer.draw_line((x, 0.25), along_pole(angle, 1.0), color=(0.85, 0.56, 0.3), width=0.07)
        renderer.draw_circle(center=(x, 0.25), radius=0.022, color=(0.97, 0.97, 0.98))
        renderer.draw_rect(center=(0.0, -0.6), w=4.8, h=0.06, color=(0.865, 0.877, 0.899))
        renderer.draw_rect(center=(-2.3664, -0.6), w=0.0672, h=0.06, color=slate)
        renderer.draw_text(center=(0.0, -0.85), text="step 7 of 500", color=slate, size=18.0)
        renderer.draw()


def cart_pole(position, angle):
    return CartPoleState(np.float32(position), np.float32(angle))


def test_the_entry_point_names_the_plugin():
    (found,) = metadata.entry_points(group="metriplex.renderers", name="pygame")
    assert found.load() is PygameRendererPlugin


def test_it_answers_for_environments_that_draw_themselves_only(ball):
    draws = {"render": ball.render, "default_renderer": ball.default_renderer}
    inner = SimpleNamespace(mujoco_model=object())
    assert isinstance(make(SimpleNamespace(**draws)), metriplex.Renderer)
    assert isinstance(make(ball), PygameRenderer)
    assert make(SimpleNamespace(render=ball.render)) is None
    assert make(SimpleNamespace(default_renderer=ball.default_renderer)) is None
    assert make(SimpleNamespace(**{**draws, "render": None})) is None
    assert make(SimpleNamespace(**draws, mujoco_model=object())) is None
    assert make(SimpleNamespace(**draws, unwrapped=inner)) is None


def test_making_one_calls_nothing_of_the_environment():
    def fail(*_):
        raise AssertionError("called too early")

    renderer = make(SimpleNamespace(render=fail, default_renderer=fail))
    renderer.close()
    pickle.dumps(make(CartPole()))


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (10, 2.0)])
def test_sizes_are_checked_at_once(ball, size):
    with pytest.raises(metriplex.ConfigurationError, match="whole number of pixels, 1 or more"):
        make(ball, *size)


def test_frames_show_the_environments_view(ball, make_state):
    frame = make(ball).render(make_state(1.0, -1.0))
    assert (frame.shape, frame.dtype) == ((60, 80, 3), np.uint8)
    ys, xs = np.nonzero(frame[..., 0] > 128)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (40, 59, 30, 49)
    assert frame[40, 50].tolist() == RED
    assert frame[0, 0].tolist() == frame[59, 79].tolist() == BLUE


@pytest.mark.parametrize("size", [(120, 60), (80, 100), (81, 61), (7, 5), (1, 1)])
def test_other_proportions_keep_the_shape_and_the_middle(ball, make_state, size):
    width, height = size
    frame = make(ball, width, height).render(make_state(0.0, 0.0))
    assert frame.shape == (height, width, 3)
    radius = 100.0 * min(width / 800, height / 600)
    area = frame[..., 0].sum() / 255
    assert area == pytest.approx(math.pi * radius**2, rel=0.02, abs=0.05)
    shares = frame[..., 0] / frame[..., 0].sum()
    assert shares.sum(0) @ (np.arange(width) + 0.5) == pytest.approx(width / 2, abs=0.05)
    assert shares.sum(1) @ (np.arange(height) + 0.5) == pytest.approx(height / 2, abs=0.05)


def test_the_background_may_be_chosen(ball, make_state):
    frame = make(ball, background_color=(0.9, 0.85, 0.7)).render(make_state(0.0, 0.0))
    assert frame[0, 0].tolist() == SAND
    with pytest.raises(DrawingError, match=r"`background_color`.*got 'blue'"):
        PygameRendererPlugin(background_color="blue")


def test_the_background_is_white_if_nobody_says(make_state):
    view = SimpleNamespace(transform=SimpleNamespace(width=8, height=6, scale=1, offset=(0, 0)))
    env = SimpleNamespace(default_renderer=lambda: view, render=lambda state, renderer: None)
    assert make(env).render(make_state(0, 0)).min() == 255


def test_pictures_move_with_the_state_and_with_nothing_else(ball, make_state):
    renderer = make(ball)
    first = renderer.render(make_state(0.0, 0.0))
    moved = renderer.render(make_state(0.01, 0.0))  # a tenth of a pixel
    again = renderer.render(make_state(0.0, 0.0))
    assert first.std() > 1
    assert np.abs(first.astype(int) - moved).max() > 10
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, make(ball).render(make_state(0.0, 0.0)))


def test_every_frame_starts_empty(make_state):
    class Trail:
        def default_renderer(self):
            return CartPole().default_renderer()

        def render(self, state, renderer):
            renderer.draw_circle((state.x, state.y), 0.5, (0, 0, 0))

    renderer = make(Trail())
    renderer.render(make_state(-1.0, 1.0))
    expected = make(Trail()).render(make_state(1.0, 1.0))
    np.testing.assert_array_equal(renderer.render(make_state(1.0, 1.0)), expected)


def test_select_gives_what_the_environment_says_that_it_draws():
    class Picky:
        default_renderer = CartPole.default_renderer
        render = CartPole.render

        def to_draw(self, state):
            return state[:1]

    assert make(Picky()).select([1.0, 2.0]) == [1.0]


def test_select_gives_the_whole_state():
    state = cart_pole(0.0, 0.0)
    assert make(CartPole()).select(state) is state


def test_a_state_of_nan_is_an_error_and_the_next_frame_is_well(ball, make_state):
    renderer = make(ball)
    expected = renderer.render(make_state(0.0, 0.0))
    with pytest.raises(DrawingError, match=r"`center` of `draw_circle` must be finite.*nan"):
        renderer.render(make_state(math.nan, 0.0))
    np.testing.assert_array_equal(renderer.render(make_state(0.0, 0.0)), expected)


def test_a_default_renderer_without_a_transform_is_an_error(make_state):
    env = SimpleNamespace(default_renderer=dict, render=lambda state, renderer: None)
    with pytest.raises(DrawingError, match=r"`default_renderer\(\)` of `SimpleNamespace`.*got {}"):
        make(env).render(make_state(0.0, 0.0))


def test_what_the_environment_raises_comes_through(make_state):
    def render(state, renderer):
        raise KeyError("no sprite")

    env = SimpleNamespace(default_renderer=CartPole().default_renderer, render=render)
    with pytest.raises(KeyError, match="no sprite"):
        make(env).render(make_state(0.0, 0.0))


def test_environments_may_compute_with_jax(make_state):
    class Jax:
        def default_renderer(self):
            view = CartPole().default_renderer().transform
            return SimpleNamespace(
                transform=SimpleNamespace(
                    width=jnp.asarray(view.width),
                    height=jnp.asarray(view.height),
                    scale=jnp.asarray(view.scale),
                    offset=jnp.asarray(view.offset),
                    y_up=True,
                ),
                background_color=SimpleNamespace(r=jnp.ones(()), g=jnp.ones(()), b=jnp.zeros(())),
            )

        def render(self, state, renderer):
            renderer.draw_circle(jnp.stack([state.x, state.y]), jnp.sqrt(0.25), jnp.zeros(3))

    frame = make(Jax()).render(make_state(0.0, 1.0))
    assert frame[0, 0].tolist() == [255, 255, 0]
    assert frame[28, 40].tolist() == [0, 0, 0]


def test_closing_twice_before_and_after_drawing(ball, make_state):
    for frames in (0, 1):
        renderer = make(ball)
        for _ in range(frames):
            renderer.render(make_state(0.0, 0.0))
        renderer.close()
        renderer.close()
        with pytest.raises(metriplex.ClosedError, match="make a new renderer"):
            renderer.render(make_state(0.0, 0.0))


def test_a_hundred_in_a_row(ball, make_state):
    """Every tenth starts and stops pygame."""
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    frames = {0: set(), 1: set()}
    for number in range(100):
        env, state = (CartPole(), cart_pole(0.5, 0.1)) if number % 10 else (ball, make_state(1, 1))
        renderer = make(env)
        frames[env is ball].add(renderer.render(state).tobytes())
        renderer.close()
    assert [len(same) for same in frames.values()] == [1, 1]
    if before:
        assert len(list(descriptors.iterdir())) <= before + 1


def test_other_threads_draw_the_same(ball, make_state):
    states = [make_state(x, 0.5) for x in (-1.0, 0.0, 1.0)]
    expected = [make(ball).render(state) for state in states]
    with ThreadPoolExecutor(3) as pool:
        renderers = list(pool.map(make, [ball] * 3))
        for _ in range(5):
            frames = pool.map(PygameRenderer.render, renderers, states)
            for frame, known in zip(frames, expected, strict=True):
                np.testing.assert_array_equal(frame, known)


@pytest.mark.parametrize("library", [pickle, cloudpickle])
def test_pickled_after_drawing_it_draws_the_same(library):
    renderer = make(CartPole())
    expected = renderer.render(cart_pole(0.5, 0.1))
    assert len(library.dumps(renderer)) < 2000
    copy = library.loads(library.dumps(renderer))
    np.testing.assert_array_equal(copy.render(cart_pole(0.5, 0.1)), expected)


def test_nothing_of_pygame_is_left_running(ball, make_state, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "no_such_driver")
    monkeypatch.delenv("SDL_AUDIODRIVER", raising=False)
    before = dict(os.environ)
    make(ball).render(make_state(0.0, 0.0))
    assert dict(os.environ) == before
    pygame = load_pygame()
    assert not pygame.get_init()
    assert not pygame.display.get_init()
    assert not pygame.mixer.get_init()
    assert pygame.display.set_mode.__module__ == "pygame.display"


@pytest.mark.parametrize(
    ("name", "position", "angle"), [("cart_pole_left", -1.2, -0.19), ("cart_pole_right", 0.7, 0.1)]
)
def test_the_cart_pole_looks_as_when_somebody_looked(golden, name, position, angle):
    golden(make(CartPole(), 160, 120).render(cart_pole(position, angle)), name)
