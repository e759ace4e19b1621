"""Media: texts, clips, images, histograms, files."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memory import logging_to_memory
from metriplex import Artifact, Histogram, Image, LoggingError, MetricsCallback
from metriplex.callback.media_methods import _equal_bins

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_an_image_arrives_as_it_was_when_it_was_logged(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    with logging_to_memory(tmp_path) as (metrics, memory):
        metrics.log_image("eval/frame", pixels, step=2**33)
        pixels[:] = 0
    (image,) = memory.media
    assert isinstance(image, Image)
    assert (image.step, image.tag, image.lane) == (2**33, "eval/frame", None)
    np.testing.assert_array_equal(image.pixels, PIXELS)


def test_a_histogram_counts_what_is_finite(tmp_path: Path) -> None:
    values = np.array([[0.0, 1.0, 1.5], [np.nan, np.inf, 4.0]], np.float32)
    with logging_to_memory(tmp_path) as (metrics, memory):
        metrics.log_histogram("weights", values, step=7, bins=4)
        metrics.log_histogram("weights", values, step=8, bins=[0, 1, 10])
    equal, given_edges = memory.media
    assert isinstance(equal, Histogram)
    assert isinstance(given_edges, Histogram)
    assert equal.counts.tolist() == [1, 2, 0, 1]
    assert equal.edges.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (given_edges.step, given_edges.counts.tolist()) == (8, [1, 3])
    assert (equal.counts.dtype, equal.edges.dtype) == (np.int64, np.float64)


@given(
    st.lists(st.floats(width=64), max_size=30) | st.lists(st.just(2.0**60), min_size=1, max_size=3),
    st.integers(1, 100),
)
@example([sys.float_info.max, -sys.float_info.max], 3)
@example([sys.float_info.max, -9.9792015476736e291], 1)
def test_every_finite_value_is_counted_once(values: list[float], bins: int) -> None:
    edges = _equal_bins(np.array([v for v in values if math.isfinite(v)]), bins)
    counts, _ = np.histogram([v for v in values if math.isfinite(v)], edges)
    histogram = Histogram(0, "a", counts, edges)  # which refuses edges that don't increase
    assert len(histogram.counts) == bins
    assert histogram.counts.sum() == sum(map(math.isfinite, values))


def test_an_artifact_is_copied_before_the_call_returns(tmp_path: Path) -> None:
    source = tmp_path / "policy.npz"
    source.write_bytes(b"one")
    folder = tmp_path / "checkpoint"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.txt").write_text("two")
    with logging_to_memory(tmp_path / "logs") as (metrics, memory):
        metrics.log_artifact(source, step=3)
        source.write_bytes(b"changed")
        metrics.log_artifact(source, step=4, name="checkpoints/policy.npz")
        metrics.log_artifact(folder)
        directory = metrics.directory
    first, second, third = memory.media
    assert isinstance(first, Artifact)
    assert isinstance(second, Artifact)
    assert isinstance(third, Artifact)
    assert (first.step, first.name, first.path.read_bytes()) == (3, "policy.npz", b"one")
    assert (second.name, second.path.read_bytes()) == ("checkpoints/policy.npz", b"changed")
    assert (third.name, (third.path / "inner" / "a.txt").read_text()) == ("checkpoint", "two")
    assert all(one.path.is_relative_to(directory) for one in (first, second, third))


BAD: list[tuple[str, Callable[[MetricsCallback], object], list[str]]] = [
    ("float pixels", lambda m: m.log_image("a", PIXELS * 0.5), ["uint8", "float64", "`a`"]),
    ("a grey picture", lambda m: m.log_image("a", PIXELS[..., 0]), ["[2, 3]", "`a`"]),
    ("a tag that is none", lambda m: m.log_image("", PIXELS), ["tag", "not empty"]),
    ("no bins", lambda m: m.log_histogram("a", [1.0], bins=0), ["`bins`", "at least 1"]),
    ("edges that fall", lambda m: m.log_histogram("a", [1.0], bins=[2, 1]), ["histogram"]),
    ("equal edges", lambda m: m.log_histogram("a", [1.0], bins=[1, 1]), ["increasing"]),
    ("values that are none", lambda m: m.log_histogram("a", ["x"]), ["histogram"]),
    ("a negative step", lambda m: m.log_histogram("a", [1.0], step=-1), ["`step`", "-1"]),
    ("a file that is not there", lambda m: m.log_artifact("/no/such/file"), ["/no/such/file"]),
    ("a name that leads out", lambda m: m.log_artifact(__file__, name="../x"), ["'../x'"]),
    ("an absolute name", lambda m: m.log_artifact(__file__, name="/x"), ["'/x'"]),
    ("an empty name", lambda m: m.log_artifact(__file__, name=""), ["''", "relative"]),
    ("a backslash", lambda m: m.log_artifact(__file__, name="a\\b"), ["relative"]),
]


@pytest.mark.parametrize(("call", "parts"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_can_not_be_logged_says_why(
    tmp_path: Path, call: Callable[[MetricsCallback], object], parts: list[str]
) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        with pytest.raises(LoggingError) as raised:
            call(metrics)
        assert all(part in str(raised.value) for part in parts), str(raised.value)
    assert memory.media == []


def test_one_name_a_step(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, _):
        metrics.log_artifact(__file__, name="x", step=1)
        with pytest.raises(LoggingError, match="`x` was logged at step 1 already"):
            metrics.log_artifact(__file__, name="x", step=1)


@pytest.mark.parametrize(
    ("counts", "edges"),
    [
        ([1.5], [0, 1]),
        ([-1], [0, 1]),
        ([], [0]),
        ([1], [0, 1, 2]),
        ([1], [1, 0]),
        ([1], [0, np.inf]),
    ],
)
def test_a_histogram_that_is_none_is_refused(counts: Any, edges: Any) -> None:
    with pytest.raises(ValueError, match="of a histogram must be"):
        Histogram(0, "a", np.asarray(counts), np.asarray(edges, float))
