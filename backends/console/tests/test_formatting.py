from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from metriplex_console import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (-0.0, "0"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (-5_000_000_000, "-5,000,000,000"),
        (10**15, "1e15"),
        (10**400, "10^400"),
        (999.96, "1,000"),
        (99.995, "100.0"),
        (-12.3456, "-12.35"),
        (1234567.8, "1,234,568"),
        (12345678.9, "1.235e7"),
        (0.0001, "0.0001"),
        (0.000123456, "0.0001235"),
        (0.00009999, "9.999e-5"),
        (3.0000000142492354e-4, "0.0003"),
        (1e-300, "1e-300"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_format_number(value, text):
    assert formatting.format_number(value) == text


@settings(deadline=None)
@given(st.floats(-1e300, 1e300))
def test_a_formatted_float_is_right_to_four_digits_and_short(value):
    text = formatting.format_number(value)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=5.01e-4, abs=0)
    assert len(text) <= 11


def test_nan_is_unknown_for_learning_rates_only():
    assert formatting.format_value("train/learning_rate", math.nan) == "unknown"
    assert formatting.format_value("train/learning_rate/actor", math.nan) == "unknown"
    assert formatting.format_value("train/loss", math.nan) == "nan"
    assert formatting.format_value("train/learning_rate", 3e-4) == "0.0003"


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, 50))
def test_shortened_text_fits(text, width):
    short = formatting.shorten(text, width)
    assert cell_len(short) <= width
    if cell_len(text) <= width:
        assert short == text


@pytest.mark.parametrize("tag", ["loss", "a/loss", "a/b/loss", "a/", "/", "/a"])
def test_split_tag_keeps_the_name_from_being_empty(tag):
    group, name = formatting.split_tag(tag)
    assert name
    assert (f"{group}/{name}" if group else name) in (tag, tag.lstrip("/"))


def test_negative_durations_count_as_zero():
    assert formatting.format_duration(-5) == "0:00"
    assert formatting.format_duration(math.nan) == "-"


@given(
    st.text(st.sampled_from("ab漢é\u0301\U0001f642-"), max_size=30),
    st.integers(0, 20),
    st.sampled_from(["…", "..."]),
)
def test_a_shortened_text_has_its_ends_and_fits(text: str, width: int, ellipsis: str) -> None:
    short = formatting.shorten(text, width, ellipsis)
    assert cell_len(short) <= max(width, 0)
    if cell_len(text) <= width:
        assert short == text
    elif width > len(ellipsis):
        head, _, tail = short.partition(ellipsis)
        assert text.endswith(tail)
        assert text.startswith(head.rstrip(" "))


def test_a_long_text_is_shortened_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted are the characters that are measured: a frame shows every tag."""
    measured = 0

    def count(text: str) -> int:
        nonlocal measured
        measured += len(text)
        return cell_len(text)

    monkeypatch.setattr("metriplex_console.formatting.cell_len", count)
    for letter in ("x", "漢", "\u0301"):
        text = 50_000 * letter
        measured = 0
        formatting.shorten(text, 30)
        assert measured <= 3 * len(text)
