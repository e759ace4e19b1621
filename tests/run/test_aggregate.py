from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriplex import Scalars
from metriplex.bridge.rows import Rows
from metriplex.plugins.backends import Backend
from metriplex.run.aggregate import PENDING, Aggregator, aggregate, statistics
from metriplex.run.columns import Columns
from metriplex.run.run import Run
from run.test_run import INFO, Keeper, row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metriplex import Scalar

NAMES = ("mean", "std", "min", "max", "median", "iqm")


def record(
    lane: int | None, iteration: int | None, values: Mapping[str, Scalar], step: int = 0
) -> Scalars:
    return Scalars(step, dict(values), iteration, lane, wall_time=float(lane or 0))


def means(due: list[Scalars]) -> list[tuple[int | None, Scalar]]:
    return [(one.iteration, one.values["aggregate/a/mean"]) for one in due]


# ---- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], (7, 0, 7, 7, 7, 7)),
        ([1.0, 3.0], (2, 1, 1, 3, 2, 2)),
        ([0.0, 4.0, 8.0, 100.0], (28, math.sqrt(1736), 0, 100, 6, 6)),
        ([100.0, 0.0, 1.0, 2.0, 3.0], (21.2, math.sqrt(1553.36), 0, 100, 2, 2)),
        ([*range(8)], (3.5, math.sqrt(5.25), 0, 7, 3.5, 3.5)),
    ],
)
def test_statistics_of_one_column(values: list[float], expected: tuple[float, ...]) -> None:
    found = statistics(np.array(values, np.float64)[:, None])
    assert tuple(found) == NAMES
    assert [float(found[name][0]) for name in NAMES] == pytest.approx(expected)


FINITE = st.floats(-1e6, 1e6)


@given(st.lists(FINITE, min_size=1, max_size=40))
def test_the_interquartile_mean_is_in_range_and_ignores_outliers(values: list[float]) -> None:
    def iqm(values: list[float]) -> float:
        return float(statistics(np.array(values)[:, None])["iqm"][0])

    assert min(values) - 1e-6 <= iqm(values) <= max(values) + 1e-6
    if len(values) >= 4:
        greatest = values.index(max(values))
        outlier = [1e9 if i == greatest else value for i, value in enumerate(values)]
        assert iqm(outlier) == pytest.approx(iqm(values), abs=1e-6)


def test_a_tag_is_aggregated_over_the_lanes_that_have_it() -> None:
    one = aggregate(
        Columns.of(
            [
                record(0, 4, {"a": 1, "b": True, "rate": math.nan}, step=8),
                record(1, 4, {"a": 2**40, "time/steps_per_second": 9.0}, step=16),
                record(2, 4, {"a": math.inf, "c": 5.0}, step=12),
            ]
        )
    )
    assert (one.step, one.iteration, one.lane, one.wall_time) == (16, 4, None, 2.0)
    assert list(one.values) == [f"aggregate/{tag}/{name}" for tag in "abc" for name in NAMES]
    assert one.values["aggregate/a/mean"] == (1 + 2**40) / 2
    assert one.values["aggregate/b/min"] == one.values["aggregate/b/max"] == 1.0
    assert one.values["aggregate/c/std"] == 0.0


def test_tags_without_a_finite_value_are_left_out() -> None:
    assert aggregate(Columns.of([record(0, 0, {}), record(1, 0, {"rate": math.nan})])).values == {}


def test_values_whose_sum_overflows_have_no_mean() -> None:
    values = aggregate(Columns.of([record(lane, 0, {"a": 1e308}) for lane in range(3)])).values
    assert values["aggregate/a/median"] == 1e308
    assert "aggregate/a/mean" not in values


# ---- order of lanes and iterations --------------------------------------------------------------


def rows(iteration: int, lanes: int = 2) -> list[Scalars]:
    return [record(lane, iteration, {"a": 10 * iteration + lane}) for lane in range(lanes)]


def test_an_iteration_is_aggregated_once_every_lane_has_logged_a_later_one() -> None:
    aggregator = Aggregator()
    assert aggregator.push(Columns.of(rows(0))) == []
    assert means(aggregator.push(Columns.of(rows(1)[:1]))) == []
    assert means(aggregator.push(Columns.of(rows(1)[1:]))) == [(0, 0.5)]
    assert means(aggregator.release()) == [(1, 10.5)]
    assert aggregator.release() == []


def test_lanes_that_arrive_one_after_another_are_aggregated_by_iteration() -> None:
    aggregator = Aggregator()
    by_lane = [record(lane, i, {"a": 10 * i + lane}) for lane in range(2) for i in range(40)]
    found = aggregator.push(Columns.of(by_lane)) + aggregator.release()
    assert means(found) == [(i, 10 * i + 0.5) for i in range(40)]


def test_with_a_known_number_of_lanes_an_iteration_waits_for_all() -> None:
    aggregator = Aggregator(lanes=3)
    for iteration in range(3):
        assert aggregator.push(Columns.of(rows(iteration))) == []
    last = [record(2, iteration, {"a": 10 * iteration + 2}) for iteration in range(3)]
    assert means(aggregator.push(Columns.of(last))) == [(0, 1.0), (1, 11.0)]


def test_a_lane_that_lags_delays_a_bounded_number_of_iterations() -> None:
    aggregator = Aggregator()
    found = aggregator.push(Columns.of(rows(0)))
    for iteration in range(1, 100):
        found += aggregator.push(Columns.of(rows(iteration)[:1]))
        assert len(aggregator._waiting) <= PENDING
    assert means(found) == [(0, 0.5), *((i, 10.0 * i) for i in range(1, 100 - PENDING))]
    assert aggregator.push(Columns.of([record(1, 5, {"a": 0})])) == []
    assert aggregator.late == 1


def test_a_restarted_program_is_aggregated_separately() -> None:
    aggregator = Aggregator()
    found = [one for i in (0, 1, 0, 1) for one in aggregator.push(Columns.of(rows(i)))]
    assert means(found + aggregator.release()) == [(0, 0.5), (1, 10.5)] * 2


def test_records_without_iteration_are_aggregated_at_once_and_without_lane_never() -> None:
    aggregator = Aggregator()
    loose = [record(lane, None, {"a": lane}, step=s) for s in (5, 6) for lane in range(2)]
    found = aggregator.push(
        Columns.of([record(None, None, {"a": 9}), record(None, 3, {"a": 9}), *loose])
    )
    assert [(one.step, one.values["aggregate/a/mean"]) for one in found] == [(5, 0.5), (6, 0.5)]
    assert aggregator.release() == []


def test_a_run_logs_statistics_beside_its_lanes() -> None:
    keeper = Keeper()
    run = Run(INFO, [Backend("keeper", keeper)], aggregator=Aggregator())
    for i in range(2):
        run.receive(
            Rows.of([row(i, {"a": i + lane}, number=i, lane=lane, iteration=i) for lane in (0, 1)])
        )
    run.release()
    rows = [row(2, {"a": lane}, number=2, lane=lane, iteration=2) for lane in (0, 1)]
    run.receive(Rows.of(rows))
    run.close("finished", 60)
    assert keeper.values("aggregate/a/mean") == [0.5, 1.5, 0.5]
    assert keeper.values("aggregate/a/iqm") == [0.5, 1.5, 0.5]
    assert keeper.values("a", 1) == [1, 2, 1]
    assert run.deliveries()[0].delivered == 9
