"""Rows that are pushed together are delivered as rows that are pushed one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from metriplex.bridge.rows import Row, Rows
from metriplex.run import sequencer
from metriplex.run.rates import Rates
from metriplex.run.sequencer import Sequencer
from metriplex.run.streams import Streams

if TYPE_CHECKING:
    import pytest


def row(lane: int, execution: int, number: int | None, kind: str = "record") -> Row:
    count = -1 if number is None else number
    return Row(
        kind=kind,
        sequence=number,
        fingerprint=hash((lane, execution, number, kind)),
        step=10 * (count + 1) + lane,
        iteration=number,
        lane=lane,
        values={"a": float(count)},
        wall_time=float(count),
        execution=execution,
    )


numbers = st.one_of(st.none(), st.integers(0, 6))
some = st.lists(
    st.builds(
        row, st.integers(0, 2), st.integers(1, 2), numbers, st.sampled_from(["record", "end"])
    ),
    max_size=30,
)
in_order = st.integers(1, 9).map(
    lambda count: [row(lane, 1, number) for number in range(count) for lane in range(3)]
)


def push_all(batches: list[list[Row]]) -> list[Row]:
    streams = Streams(resumed=False)
    due = [one for batch in batches for one in streams.push(Rows.of(batch))]
    return due + list(streams.release())


def by_stream(rows: list[Row]) -> dict[tuple[int | None, int], list[Row]]:
    found: dict[tuple[int | None, int], list[Row]] = {}
    for one in rows:
        found.setdefault((one.lane, one.execution), []).append(one)
    return found


@given(st.lists(st.one_of(some, in_order), max_size=4))
def test_a_batch_is_delivered_as_its_rows_alone(batches: list[list[Row]]) -> None:
    together = push_all(batches)
    alone = push_all([[one] for batch in batches for one in batch])
    assert by_stream(together) == by_stream(alone)


@given(in_order, st.integers(1, 3))
def test_copies_of_a_whole_batch_are_dropped(rows: list[Row], copies: int) -> None:
    assert push_all([rows] * copies) == rows
    assert push_all([rows * copies]) == rows


def test_rows_in_order_come_out_as_the_columns_that_went_in() -> None:
    rows = Rows.of([row(lane, 1, number) for number in range(4) for lane in range(3)])
    assert Streams(resumed=False).push(rows) is rows


def test_a_long_stream_forgets_its_oldest_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MEMORY", 8)
    for size in (1, 3, 8, 20):
        one = Sequencer()
        for first in range(0, 60, size):
            rows = Rows.of([row(0, 1, number) for number in range(first, first + size)])
            assert one.push_next(rows.sequence, rows.fingerprint)
        known = [one._memory.recall(number) for number in range(one.expected)]
        expected = [row(0, 1, number).fingerprint for number in range(one.expected)]
        assert known == [None] * (one.expected - 8) + expected[-8:]


@given(st.lists(st.one_of(some, in_order), max_size=4))
def test_columns_have_the_rows(batches: list[list[Row]]) -> None:
    for batch in batches:
        rows = Rows.of(batch)
        assert list(rows) == batch
        assert [rows[index] for index in range(len(batch))] == batch
        for kind in ("record", "end"):
            chosen = rows.take(rows.of_kind(kind))
            assert list(chosen) == [one for one in batch if one.kind == kind]
        streams = rows.by_stream(rows.of_kind("record"))
        of_records = by_stream([one for one in batch if one.kind == "record"])
        assert {key[:2]: list(rows.take(key[2])) for key in streams} == of_records
        assert [key[:2] for key in streams] == list(of_records)


@given(in_order, st.integers(0, 30))
def test_rates_of_a_batch_are_those_of_its_rows_alone(rows: list[Row], start: int) -> None:
    rows.insert(min(start, len(rows)), row(1, 1, None, "start"))
    together = Rates().push(Rows.of(rows)).tolist()
    rates = Rates()
    alone = [rates.push(Rows.of([one])).tolist()[0] for one in rows]
    assert [None if math.isnan(rate) else rate for rate in together] == [
        None if math.isnan(rate) else rate for rate in alone
    ]
