from __future__ import annotations

import math

import numpy as np
import pytest

from metriplex_pygame.coverage import cover
from metriplex_pygame.outlines import ellipse, stroke


def picture(outlines):
    mask = cover(outlines, 400, 400)
    assert mask is not None
    whole = np.zeros((400, 400))
    rows, columns = mask.alpha.shape
    whole[mask.top : mask.top + rows, mask.left : mask.left + columns] = mask.alpha / 255
    return whole


def area(outlines):
    return picture(outlines).sum()


@pytest.mark.parametrize("radius", [0.5, 3.0, 20.0, 150.0])
def test_a_circle_keeps_within_a_fiftieth_of_a_pixel(radius):
    [points] = ellipse(np.array([200.0, 200.0]), 2 * radius, 2 * radius)
    chords = (points + np.roll(points, -1, 0)) / 2
    np.testing.assert_allclose(np.hypot(*(points - 200).T), radius)
    assert np.hypot(*(chords - 200).T).min() > radius - 0.02


def test_the_axes_of_an_ellipse():
    [points] = ellipse(np.array([10.0, 20.0]), 8.0, 4.0)
    np.testing.assert_allclose(points.min(0), [6.0, 18.0], atol=0.01)
    np.testing.assert_allclose(points.max(0), [14.0, 22.0], atol=0.01)


@pytest.mark.parametrize("angle", np.linspace(0, 2 * math.pi, 7))
@pytest.mark.parametrize("width", [1.0, 10.0])
def test_a_segment_is_a_rectangle_and_two_half_discs(angle, width):
    ends = 200 + 100 * np.array([[0, 0], [math.cos(angle), math.sin(angle)]])
    expected = 100 * width + math.pi * (width / 2) ** 2
    assert area(stroke(ends, width)) == pytest.approx(expected, rel=0.01)


def test_a_smooth_curve_is_one_outline_of_even_thickness():
    turn = np.linspace(0, math.pi, 60)
    curve = 200 + 100 * np.stack([np.cos(turn), np.sin(turn)], 1)
    outlines = stroke(curve, 6.0)
    assert len(outlines) == 1
    assert area(outlines) == pytest.approx(100 * math.pi * 6 + math.pi * 9, rel=0.005)


def test_a_sharp_bend_is_round():
    outlines = stroke(np.array([[100.0, 100.0], [200.0, 100.0], [100.0, 100.0]]), 20.0)
    assert len(outlines) == 2
    assert np.max(np.concatenate(outlines)[:, 0]) == pytest.approx(210.0, abs=0.1)
    filled = picture(stroke(np.array([[100.0, 200], [200, 200], [200, 100]]), 40.0))
    assert filled[212, 212] == 1
    assert filled[218, 218] == 0  # where a mitred corner would reach


def test_points_that_repeat_don_t_matter():
    line = np.array([[10.0, 10.0], [50.0, 30.0]])
    once, twice = stroke(line, 4.0), stroke(np.repeat(line, 3, 0), 4.0)
    np.testing.assert_array_equal(once[0], twice[0])


def test_one_point_is_a_dot_and_none_is_nothing():
    dot = np.array([[100.0, 100.0]])
    assert area(stroke(np.repeat(dot, 2, 0), 20.0)) == pytest.approx(100 * math.pi, rel=0.01)
    assert stroke(np.empty((0, 2)), 20.0) == []
