from __future__ import annotations

import math
import threading

import pytest

from metriplex import Scalars
from metriplex_console.board import Board, Summary, TagValues


def test_newest_values_by_full_tag():
    board = Board("episode/return")
    board.update([Scalars(10, {"a/loss": 1.0, "b/loss": 2}, 0, None, 1.0)])
    board.update([Scalars(20, {"a/loss": 3.0, "episode/return": 7.5}, 1, None, 3.0)])
    snapshot = board.snapshot()
    assert snapshot.tags == (
        TagValues("a/loss", (3.0,)),
        TagValues("b/loss", (2,)),
        TagValues("episode/return", (7.5,)),
    )
    assert (snapshot.step, snapshot.iteration, snapshot.lanes, snapshot.records) == (20, 1, 0, 2)
    assert snapshot.history == ((20, 7.5),)
    assert snapshot.steps_per_second == 5.0


def test_the_logged_rate_wins():
    board = Board(None)
    for step in (0, 100):
        board.update([Scalars(step, {"time/steps_per_second": 42.0}, 0, None, float(step))])
    assert board.snapshot().steps_per_second == 42.0


def test_the_computed_rate_follows_the_last_seconds_and_survives_going_back():
    board = Board(None)
    step = 0
    for second in range(200):
        step += 1000 if second < 100 else 10
        board.update([Scalars(step, {}, second, None, float(second))])
    assert board.snapshot().steps_per_second == pytest.approx(10.0)
    board.update([Scalars(0, {}, 0, None, 201.0), Scalars(50, {}, 1, None, 202.0)])
    assert board.snapshot().steps_per_second == pytest.approx(50.0)


def test_lanes_are_summarised_over_their_newest_values():
    board = Board("x")
    board.update([Scalars(8, {"x": float(v), "n": 3}, 0, v, 0.0) for v in (1, 2, 3, 4)])
    x, n = board.snapshot().tags
    assert x.summary() == Summary(2.5, math.sqrt(1.25), 1.0, 4.0)
    assert n.summary() == Summary(3, 0.0, 3.0, 3.0)
    assert board.snapshot().lanes == 4
    assert board.snapshot().history == ((8, 2.5),)


def test_lanes_that_are_not_finite_do_not_count():
    assert TagValues("x", (1.0, math.nan, 3.0)).summary() == Summary(2.0, 1.0, 1.0, 3.0)
    assert math.isnan(TagValues("x", (math.nan, math.nan)).summary().value)
    assert TagValues("x", (10**400,)).summary() == Summary(10**400)


def test_nothing_is_torn_between_threads():
    board = Board("x")
    stop = threading.Event()

    def write() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            board.update([Scalars(step, {"x": step, f"t{step % 50}": step}, step, 0, 0.0)])

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(300):
        snapshot = board.snapshot()
        if snapshot.tags:
            assert snapshot.tags[0].values == (snapshot.step,)
    stop.set()
    writer.join()
