from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex_pygame.coverage import cover, cover_box

WIDTH, HEIGHT = 24, 16


def picture(mask, width=WIDTH, height=HEIGHT):
    whole = np.zeros((height, width))
    if mask is not None:
        rows, columns = mask.alpha.shape
        whole[mask.top : mask.top + rows, mask.left : mask.left + columns] = mask.alpha / 255
    return whole


def box(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def convex(seed, center, radius, corners):
    angles = np.sort(np.random.default_rng(seed).uniform(0, 2 * math.pi, corners))
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def area(points):
    x, y = points.T
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), corners=st.integers(3, 9), reverse=st.booleans())
def test_the_coverage_adds_up_to_the_area(seed, corners, reverse):
    points = convex(seed, (12, 8), 7.5, corners)
    mask = cover([points[::-1] if reverse else points], WIDTH, HEIGHT)
    assert picture(mask).sum() == pytest.approx(area(points), abs=0.5 / 255 * WIDTH * HEIGHT / 4)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    x=st.integers(-30, 40),
    y=st.integers(-30, 40),
    radius=st.floats(1, 300),
)
def test_what_lies_outside_is_cut_off_and_changes_nothing_inside(seed, x, y, radius):
    points = convex(seed, (0.3 + x, 0.7 + y), radius, 6)
    whole = picture(cover([points + 700], 1400 + WIDTH, 1400 + HEIGHT), 1424, 1416)
    seen = picture(cover([points], WIDTH, HEIGHT))
    np.testing.assert_allclose(seen, whole[700 : 700 + HEIGHT, 700 : 700 + WIDTH], atol=1 / 255)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), corners=st.integers(3, 8))
def test_each_pixel_is_covered_as_much_as_a_fine_grid_of_points_says(seed, corners):
    points = convex(seed, (11.6, 8.2), 7.0, corners)
    fine = 16
    x, y = (np.stack(np.meshgrid(*[np.arange(n * fine) for n in (WIDTH, HEIGHT)])) + 0.5) / fine
    inside = np.ones(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    shares = inside.reshape(HEIGHT, fine, WIDTH, fine).mean((1, 3))
    np.testing.assert_allclose(picture(cover([points], WIDTH, HEIGHT)), shares, atol=0.1)


@settings(max_examples=60, deadline=None)
@given(*[st.floats(-30, 50)] * 4)
def test_a_box_is_the_same_as_its_outline(left, top, right, bottom):
    left, right, top, bottom = *sorted((left, right)), *sorted((top, bottom))
    center = np.array([left + right, top + bottom]) / 2
    exact = picture(cover_box(center, np.array([right - left, bottom - top]), WIDTH, HEIGHT))
    outline = picture(cover([box(left, top, right, bottom)], WIDTH, HEIGHT))
    np.testing.assert_allclose(exact, outline, atol=1.01 / 255)


def test_a_quarter_of_a_pixel():
    expected = np.zeros((HEIGHT, WIDTH))
    expected[2:4, 3:5] = [[0.25 * 0.5, 0.25], [0.5, 1.0]]
    mask = cover_box(np.array([4.25, 3.375]), np.array([1.5, 1.25]), WIDTH, HEIGHT)
    np.testing.assert_allclose(picture(mask), expected, atol=1 / 255)


def test_outlines_that_overlap_are_united():
    mask = cover([box(1, 1, 5, 5), box(3, 3, 8, 8)], WIDTH, HEIGHT)
    expected = np.zeros((HEIGHT, WIDTH))
    expected[1:5, 1:5] = expected[3:8, 3:8] = 1
    np.testing.assert_array_equal(picture(mask), expected)


def test_a_polygon_need_not_be_convex():
    notch = np.array([[2, 2], [10, 2], [10, 10], [6, 4], [2, 10]], float)
    filled = picture(cover([notch], WIDTH, HEIGHT))
    assert filled[3, 6] == 1
    assert filled[8, 6] == 0
    assert filled.sum() == pytest.approx(area(notch), abs=0.2)


@pytest.mark.parametrize("huge", [1e4, 1e9, 1e12])
def test_huge_shapes_cost_no_more_and_cover_everything(huge):
    np.testing.assert_array_equal(picture(cover([box(-huge, -huge, huge, huge)], 24, 16)), 1.0)
    diamond = huge * np.array([[0, -1], [1, 0], [0, 1], [-1, 0]], float)
    np.testing.assert_array_equal(picture(cover([diamond], 24, 16)), 1.0)


@pytest.mark.parametrize(
    "outlines",
    [
        [],
        [np.array([[3.0, 4.0]])],
        [np.array([[3.0, 4.0], [8.0, 9.0]])],
        [box(3, 3, 3, 9)],
        [box(-9, 2, -1, 5)],
        [box(30, 2, 40, 5)],
        [box(2, -9, 5, 0)],
        [box(2, 16, 5, 99)],
    ],
)
def test_nothing_is_covered(outlines):
    assert picture(cover(outlines, WIDTH, HEIGHT)).sum() == 0
