"""Shapes that are used again: a picture never shows that another one was drawn before it."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex_pygame import HeadlessPygameRenderer
from metriplex_pygame.coverage import Mask
from metriplex_pygame.shapes import ShapeCache

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
COLORS = st.sampled_from([RED, BLUE, (0.2, 0.5, 0.9)])
PLACES = st.tuples(st.sampled_from([-3.0, 4.25, 9.0]), st.sampled_from([2.5, 7.0]))
SIZES = st.sampled_from([0.0, 1.5, 6.0])
CALLS = st.one_of(
    st.tuples(st.just("draw_circle"), PLACES, SIZES, COLORS),
    st.tuples(st.just("draw_ellipse"), PLACES, SIZES, SIZES, COLORS),
    st.tuples(st.just("draw_rect"), PLACES, SIZES, SIZES, COLORS),
    st.tuples(st.just("draw_line"), PLACES, PLACES, COLORS, SIZES),
    st.tuples(st.just("draw_polygon"), st.lists(PLACES, max_size=4), COLORS),
    st.tuples(st.just("draw_polyline"), st.lists(PLACES, max_size=4), COLORS),
    st.tuples(st.just("draw_text"), PLACES, st.sampled_from(["", "a", "b"]), COLORS),
)


def draw(canvas, calls):
    canvas.clear()
    for name, *arguments in calls:
        getattr(canvas, name)(*arguments)
    return canvas.as_array()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CALLS, max_size=5), min_size=2, max_size=4))
def test_a_picture_is_that_of_a_new_canvas(pictures):
    canvas = HeadlessPygameRenderer(16, 12)
    for calls in pictures:
        expected = draw(HeadlessPygameRenderer(16, 12), calls)
        np.testing.assert_array_equal(draw(canvas, calls), expected)


def masks(made, name):
    def mask():
        made.append(name)
        return Mask(np.full((2, 3), 255, np.uint8), 1, 1)

    return mask


def test_a_shape_is_made_once_as_long_as_every_picture_has_it():
    cache, made = ShapeCache(), []
    for _ in range(3):
        cache.turn()
        cache.stencil("stays", (1, 2, 3), masks(made, "stays"))
        cache.stencil("stays", (1, 2, 3), masks(made, "stays"))
    cache.stencil("stays", (9, 2, 3), masks(made, "in another colour"))
    cache.turn()
    cache.stencil("comes", (1, 2, 3), masks(made, "comes"))
    cache.turn()
    cache.stencil("stays", (1, 2, 3), masks(made, "stays after it was away"))
    assert made == ["stays", "in another colour", "comes", "stays after it was away"]


def test_a_picture_that_is_never_cleared_keeps_no_more_than_its_share_of_shapes():
    cache, made = ShapeCache(), []

    def mask():
        made.append(None)
        return Mask(np.full((1024, 1024), 255, np.uint8), 0, 0)

    for shape in range(20):  # 4 MiB each
        cache.stencil(shape, (0, 0, 0), mask)
    cache.stencil(19, (0, 0, 0), mask)
    assert len(made) == 20
    cache.stencil(0, (0, 0, 0), mask)
    assert len(made) == 21


def test_a_canvas_travels_without_its_shapes():
    canvas = HeadlessPygameRenderer(200, 200)
    canvas.draw_rect((100, 100), 200, 200, RED)
    data = pickle.dumps(canvas)
    assert len(data) < 2000
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.as_array(), 255)
    copy.draw_rect((100, 100), 200, 200, RED)
    np.testing.assert_array_equal(copy.as_array(), canvas.as_array())
