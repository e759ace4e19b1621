from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex import Viewport

numbers = st.floats(-1e3, 1e3)


@pytest.mark.parametrize(
    ("y_up", "point", "pixel"),
    [
        (True, (0.0, 0.0), (20.0, 400.0)),
        (True, (1.0, -0.3), (120.0, 430.0)),
        (False, (0.0, 0.0), (20.0, 80.0)),
        (False, (1.0, -0.3), (120.0, 50.0)),
    ],
)
def test_pixel_is_point_times_scale_plus_offset_and_y_up_counts_from_the_bottom(
    y_up, point, pixel
) -> None:
    view = Viewport(640, 480, scale=100.0, offset=(20.0, 80.0), y_up=y_up)
    np.testing.assert_allclose(view.to_pixels(point), pixel)
    np.testing.assert_allclose(view.to_pixels(np.array([point] * 3)), [pixel] * 3)


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    scale=st.floats(1e-2, 1e3),
    offset=st.tuples(numbers, numbers),
    y_up=st.booleans(),
    pixels=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4),
)
def test_pixels_come_back_from_the_world(size, scale, offset, y_up, pixels) -> None:
    view = Viewport(*size, scale, offset, y_up)
    world = view.to_world(pixels)
    np.testing.assert_allclose(view.to_pixels(world), pixels, rtol=1e-9, atol=1e-8)
    unit = view.to_pixels(np.add(world, (0.0, 1.0))) - view.to_pixels(world)
    np.testing.assert_allclose(unit[:, 1], -scale if y_up else scale, rtol=1e-6, atol=1e-6)


def test_the_callers_arrays_are_not_changed() -> None:
    points = np.array([[1.0, 2.0]])
    Viewport(10, 10).to_pixels(points)
    Viewport(10, 10).to_world(points)
    np.testing.assert_array_equal(points, [[1.0, 2.0]])


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    y_up=st.booleans(),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
)
def test_a_fitted_view_is_the_same_picture_scaled_and_centred(width, height, y_up, x, y) -> None:
    before = Viewport(800, 450, scale=200.0, offset=(400.0, 45.0), y_up=y_up)
    after = before.fitted(width, height)
    ratio = min(width / 800, height / 450)
    point = (np.array([x, y]) * (800, 450) - 400) / 200
    center = np.array([width, height]) / 2
    expected = center + ratio * (before.to_pixels(point) - (400, 225))
    np.testing.assert_allclose(after.to_pixels(point), expected, atol=1e-6 * max(width, height))
    assert after.scale == pytest.approx(200.0 * ratio)
    assert (after.width, after.height, after.y_up) == (width, height, y_up)


def test_a_viewport_is_what_default_renderer_returns_and_cannot_be_changed() -> None:
    view = Viewport(320, 200, background_color=(0.0, 0.5, 1.0))
    assert view.transform is view
    assert Viewport(320, 200).background_color == (1.0, 1.0, 1.0)
    assert view.fitted(160, 100).background_color == (0.0, 0.5, 1.0)
    assert len({view, dataclasses.replace(view)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(view, "width", 1)  # noqa: B010 - ty knows that this is an error
