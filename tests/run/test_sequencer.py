"""The sequencer gives every row once and in order, for every order of arrival."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriplex.bridge.rows import Row
from metriplex.run import sequencer as module
from metriplex.run.sequencer import Sequencer

if TYPE_CHECKING:
    from collections.abc import Iterable


def row(number: int | None, program: int = 0) -> Row:
    return Row(
        kind="record",
        sequence=number,
        fingerprint=hash((number, program)),
        step=0 if number is None else 10 * number,
        iteration=number,
        lane=None,
        values={"program": program},
        wall_time=0.0,
    )


def push_all(sequencer: Sequencer, rows: Iterable[Row]) -> list[Row]:
    return [due for one in rows for due in sequencer.push(one)]


def numbers(rows: Iterable[Row]) -> list[int | None]:
    return [one.sequence for one in rows]


@given(
    size=st.integers(1, 120),
    copies=st.integers(1, 3),
    reach=st.integers(1, 100),
    seed=st.integers(),
)
def test_rows_in_any_order_within_the_window_come_out_once_and_in_order(
    size: int, copies: int, reach: int, seed: int
) -> None:
    shuffled = random.Random(seed)
    arrivals = sorted(list(range(size)) * copies, key=lambda one: one + shuffled.uniform(0, reach))
    sequencer = Sequencer()
    due = push_all(sequencer, map(row, arrivals))
    assert numbers(due) == list(range(size))
    assert sequencer.duplicates == size * (copies - 1)
    assert sequencer.release() == []


@given(st.permutations(range(30)), st.sets(st.integers(0, 29)))
def test_release_returns_the_waiting_rows_in_order_across_gaps(
    order: list[int], lost: set[int]
) -> None:
    sequencer = Sequencer()
    due = push_all(sequencer, [row(number) for number in order if number not in lost])
    due += sequencer.release()
    assert numbers(due) == [number for number in range(30) if number not in lost]


def test_an_unnumbered_row_is_due_at_once_and_changes_nothing() -> None:
    sequencer = Sequencer()
    assert numbers(push_all(sequencer, map(row, [1, None, None, 0]))) == [None, None, 0, 1]


def test_a_lane_may_begin_at_a_later_number() -> None:
    sequencer = Sequencer(3)
    assert numbers(push_all(sequencer, map(row, [4, 3, 5]))) == [3, 4, 5]
    assert sequencer.expected == 6


def test_a_gap_is_skipped_after_a_window_of_rows() -> None:
    sequencer = Sequencer()
    waiting = [row(number) for number in range(1, module.WINDOW + 1)]
    assert push_all(sequencer, waiting) == []
    last = row(module.WINDOW + 1)
    assert sequencer.push(last) == [*waiting, last]
    assert sequencer.expected == module.WINDOW + 2


def test_a_row_that_arrives_after_its_gap_was_skipped_is_late_not_lost() -> None:
    sequencer = Sequencer()
    arrivals = [0, *range(2, module.WINDOW + 3), 1, 1, module.WINDOW + 3]
    due = numbers(push_all(sequencer, map(row, arrivals)))
    assert due == [0, *range(2, module.WINDOW + 3), 1, module.WINDOW + 3]
    assert sequencer.duplicates == 1


@pytest.mark.parametrize("program", [0, 1], ids=["same", "other"])
@given(st.permutations(range(6)))
def test_no_row_of_a_second_program_is_lost_or_delayed_in_any_order_of_arrival(
    program: int, order: list[int]
) -> None:
    sequencer = Sequencer()
    push_all(sequencer, [row(number) for number in range(6)])
    sequencer.release()
    due = push_all(sequencer, [row(number, program) for number in order])
    due += sequencer.push(row(6, program))
    assert sorted(one.step for one in due) == [10 * number for number in range(7)]
    assert push_all(sequencer, [row(number, program) for number in range(7)]) == []


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_second_program_is_numbered_from_0_again(length: int) -> None:
    sequencer = Sequencer()
    first = [row(number) for number in range(5)]
    second = [row(number, program=1) for number in range(length)]
    assert push_all(sequencer, [*first, *second]) == [*first, *second]
    assert sequencer.duplicates == 0


def test_waiting_rows_come_before_the_rows_of_the_next_program() -> None:
    sequencer = Sequencer()
    rows = [row(0), row(2), row(0, program=1), row(1, program=1)]
    assert push_all(sequencer, rows) == rows


def test_the_same_rows_again_are_new_only_after_the_first_program_has_ended() -> None:
    rows = [row(number) for number in range(5)]
    sequencer = Sequencer()
    assert push_all(sequencer, rows) == rows
    assert push_all(sequencer, rows) == []
    assert sequencer.duplicates == 5
    sequencer.release()
    assert push_all(sequencer, rows) == rows
    assert push_all(sequencer, reversed(rows)) == []
    assert sequencer.duplicates == 10


def test_rows_after_a_release_are_no_duplicates() -> None:
    sequencer = Sequencer()
    push_all(sequencer, [row(0), row(1)])
    sequencer.release()
    assert numbers(push_all(sequencer, map(row, [2, 3, 2]))) == [2, 3]


def test_duplicates_are_detected_within_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MEMORY", 8)
    sequencer = Sequencer(2)
    rows = [row(number) for number in range(2, 25)]
    assert push_all(sequencer, rows) == rows
    assert push_all(sequencer, reversed(rows[-8:])) == []
    forgotten = rows[-9]
    assert sequencer.push(forgotten) == [forgotten]


def test_equal_fingerprints_of_different_numbers_are_no_duplicates() -> None:
    sequencer = Sequencer()
    rows = [row(0), row(1), *map(row, range(5, module.WINDOW + 6))]
    assert push_all(sequencer, rows) == rows
    assert push_all(sequencer, [row(7), row(6), row(5)]) == []
    other = dataclasses.replace(row(4), fingerprint=rows[0].fingerprint)
    assert sequencer.push(other) == [other]


def test_the_memory_for_a_long_stream_is_bounded() -> None:
    sequencer = Sequencer()
    for number in range(module.MEMORY + 100):
        sequencer.push(row(number))
    assert len(sequencer._memory._ring) == module.MEMORY
    assert sequencer.push(row(100)) == []
    assert numbers(sequencer.push(row(99))) == [99]
