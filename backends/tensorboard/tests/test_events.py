"""Scalars that this backend encodes, decoded by protobuf."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX import summary as summaries
from tensorboardX.proto.event_pb2 import Event  # ty: ignore[missing-module-member] - made at import

from metriplex import LoggingError, Scalar, Scalars, Text
from metriplex_tensorboard.events import scalar_event, text_event

TAGS = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("a/b_", min_size=100)
VALUES = st.booleans() | st.integers(-(2**200), 2**200) | st.floats()
INT64 = st.integers(-(2**63), 2**63 - 1)
TAKEN_BY_ADD_SCALAR = st.booleans() | INT64 | st.floats()


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(TAGS, VALUES, max_size=30), INT64, st.floats(1.0, 4e9))
@pytest.mark.long
def test_protobuf_decodes_what_was_encoded(
    values: dict[str, Scalar], step: int, wall_time: float
) -> None:
    event = Event.FromString(scalar_event(Scalars(step, values, wall_time=wall_time)))

    assert event.step == step
    assert event.wall_time == wall_time
    assert event.WhichOneof("what") == "summary"
    assert [value.tag for value in event.summary.value] == list(values)
    for decoded, value in zip(event.summary.value, values.values(), strict=True):
        assert decoded.WhichOneof("value") == "simple_value"
        with np.errstate(over="ignore"):
            expected = float(np.float32(float(value)))
        assert decoded.simple_value == expected or (
            math.isnan(decoded.simple_value) and math.isnan(expected)
        )


@settings(deadline=None, max_examples=200)
@given(st.from_regex(r"[a-z_][-/\w.]{0,20}", fullmatch=True), TAKEN_BY_ADD_SCALAR)
def test_value_is_converted_as_tensorboardx_converts_it(tag: str, value: Scalar) -> None:
    event = Event.FromString(scalar_event(Scalars(3, {tag: value}, wall_time=1.0)))

    expected = summaries.scalar(tag, value)

    assert event.summary.SerializeToString() == expected.SerializeToString()


@pytest.mark.parametrize("sign", [1, -1])
def test_integer_beyond_any_float_becomes_infinite(sign: int) -> None:
    record = Scalars(0, {"huge": sign * 10**400, "one": 1}, wall_time=1.0)

    event = Event.FromString(scalar_event(record))

    assert [value.simple_value for value in event.summary.value] == [sign * math.inf, 1.0]


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1])
def test_step_beyond_int64_is_an_error_that_says_so(step: int) -> None:
    with pytest.raises(LoggingError, match=rf"`step` must fit .* 64-bit .*; got {step}"):
        scalar_event(Scalars(step, {"a": 1.0}))
    with pytest.raises(LoggingError, match=rf"`step` must fit .* 64-bit .*; got {step}"):
        text_event(Text(step, "a", "b"))


def test_lone_surrogate_is_escaped_and_costs_the_step_nothing() -> None:
    record = Scalars(1, {"bad\ud800tag": 1.0, "good": 2.0})

    event = Event.FromString(scalar_event(record))
    text = Event.FromString(text_event(Text(1, "\ud800", "\udfff")))

    assert [value.tag for value in event.summary.value] == ["bad\\ud800tag", "good"]
    assert text.summary.value[0].tag == "\\ud800/text_summary"
    assert text.summary.value[0].tensor.string_val == [b"\\udfff"]
