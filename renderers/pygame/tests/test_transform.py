from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex_pygame import DrawingError, Transform


@pytest.mark.parametrize(("y_up", "pixel"), [(True, [120.0, 430.0]), (False, [120.0, 50.0])])
def test_pixel_is_point_times_scale_plus_offset_and_y_up_counts_from_the_bottom(y_up, pixel):
    transform = Transform(640, 480, scale=100.0, offset=(20.0, 80.0), y_up=y_up)
    np.testing.assert_allclose(transform.to_pixel(np.array([1.0, -0.3])), pixel)
    np.testing.assert_allclose(transform.to_pixel(np.array([[1.0, -0.3]] * 3)), [pixel] * 3)


def test_the_callers_points_are_not_changed():
    points = np.array([[1.0, 2.0]])
    Transform(10, 10).to_pixel(points)
    np.testing.assert_array_equal(points, [[1.0, 2.0]])


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    y_up=st.booleans(),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
)
def test_a_fitted_view_is_the_same_picture_scaled_and_centred(width, height, y_up, x, y):
    before = Transform(800, 450, scale=200.0, offset=(400.0, 45.0), y_up=y_up)
    after = before.fitted(width, height)
    ratio = min(width / 800, height / 450)
    point = (np.array([x, y]) * (800, 450) - 400) / 200
    center = np.array([width, height]) / 2
    expected = center + ratio * (before.to_pixel(point) - (400, 225))
    np.testing.assert_allclose(after.to_pixel(point), expected, atol=1e-6 * max(width, height))
    assert after.scale == pytest.approx(200.0 * ratio)
    assert (after.width, after.height, after.y_up) == (width, height, y_up)


def test_arrays_without_dimension_are_read():
    arrays = SimpleNamespace(
        width=np.int32(4),
        height=np.array(3),
        scale=np.float32(0.5),
        offset=np.array([1, 2]),
        y_up=False,
    )
    assert Transform.like(arrays) == Transform(4.0, 3.0, 0.5, (1.0, 2.0), y_up=False)


@pytest.mark.parametrize(
    "change",
    [{"scale": np.nan}, {"scale": 0.0}, {"height": -1}, {"offset": (1, 2, 3)}, {"offset": None}],
)
def test_what_is_no_transform_is_an_error(change):
    good = {"width": 4, "height": 3, "scale": 1.0, "offset": (0.0, 0.0), "y_up": True}
    with pytest.raises(DrawingError, match="scale"):
        Transform.like(SimpleNamespace(**{**good, **change}))
    with pytest.raises(DrawingError, match="has no attribute 'width'"):
        Transform.like(SimpleNamespace(offset=(0, 0)))
