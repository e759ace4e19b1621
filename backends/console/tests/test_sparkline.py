from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex_console.sparkline import BLOCKS, History, resample, sparkline

finite = st.floats(allow_nan=False, allow_infinity=False)


def heights(rows: list[str]) -> list[int]:
    return [sum(BLOCKS.index(row[i]) for row in rows) for i in range(len(rows[0]))]


@settings(deadline=None)
@given(st.lists(finite, max_size=50), st.integers(1, 4))
def test_every_row_has_one_character_a_value(values, rows):
    chart = sparkline(values, rows)
    assert [len(row) for row in chart] == [len(values)] * rows
    for column in zip(*chart, strict=True):  # no gap below a filled row
        filled = [BLOCKS.index(c) for c in column]
        for above, below in itertools.pairwise(filled):
            assert above == 0 or below == 8


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=50), st.integers(1, 3))
def test_greater_values_are_never_lower(values, rows):
    drawn = heights(sparkline(values, rows))
    pairs = sorted(zip(values, drawn, strict=True))
    assert [h for _, h in pairs] == sorted(h for _, h in pairs)
    assert 1 <= min(drawn) <= max(drawn) <= 8 * rows


def test_the_range_is_used_whole():
    assert sparkline([0, 1]) == ["▁█"]
    assert sparkline([-1e308, 1e308]) == ["▁█"]
    assert sparkline([0, 10], rows=2) == [" █", "▁█"]
    assert sparkline([3, 3, 3]) == ["▅▅▅"]
    assert sparkline([]) == [""]


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 10**12), st.floats(-1e6, 1e6), max_size=80), st.integers(1, 60)
)
def test_resampling_keeps_length_and_range(points, width):
    values = resample(sorted(points.items()), width)
    assert len(values) == min(width, len(points))
    if points:
        slack = 1e-6
        assert min(points.values()) - slack <= min(values)
        assert max(values) <= max(points.values()) + slack


def test_resampling_averages_and_fills_gaps():
    assert resample([(0, 1.0), (1, 3.0), (2, 10.0), (3, 20.0)], 2) == [2.0, 15.0]
    assert resample([(0, 1.0), (1, 2.0), (99, 5.0)], 3) == [1.5, 1.5, 5.0]


def test_history_is_bounded_and_averages_lanes():
    history = History(capacity=8)
    for step in range(1000):
        for lane in range(4):
            history.add(step * 512, float(lane))
    points = history.points()
    assert 4 <= len(points) <= 8
    assert all(value == pytest.approx(1.5) for _, value in points)
    assert points[0][0] == 0
    assert points[-1][0] > 900 * 512 * 7 / 8


def test_history_leaves_out_what_is_not_finite_and_takes_any_order():
    history = History()
    for step, value in [(5, 2.0), (1, 1.0), (3, math.nan), (4, math.inf), (5, 4.0)]:
        history.add(step, value)
    assert history.points() == [(1, 1.0), (5, 3.0)]
