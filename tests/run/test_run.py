from __future__ import annotations

import contextlib
import logging
import math
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interpreter
from metriplex import ClosedError, NonFiniteError, RunInfo, Scalars, Text, hookimpl
from metriplex.bridge.rows import Row, Rows
from metriplex.plugins.backends import Backend
from metriplex.run.rates import STEPS_PER_SECOND
from metriplex.run.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from metriplex.run.nonfinite import NonFinite

INFO = RunInfo(id="0f", name="walk", directory=Path("logs/walk"), start_time=0.0)
LONG = 60.0
NAN, INF = math.nan, math.inf


@final
class Keeper:
    """Keeps what it gets; `log_scalars` waits for the gate."""

    flush_secs = 3600.0

    def __init__(self) -> None:
        self.records: list[Scalars] = []
        self.order: list[object] = []
        self.statuses: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.closed = threading.Event()
        self.flushes = 0

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self.entered.set()
        assert self.gate.wait(LONG)
        self.records += records
        self.order += [record.step for record in records]

    @hookimpl
    def log_text(self, text: Text) -> None:
        self.order.append(text.text)

    @hookimpl
    def flush(self) -> None:
        self.flushes += 1

    @hookimpl
    def close_run(self, status: str) -> None:
        self.statuses.append(status)
        self.closed.set()

    def values(self, tag: str, lane: int | None = None) -> list[object]:
        return [r.values[tag] for r in self.records if r.lane == lane and tag in r.values]


@pytest.fixture
def make() -> Iterator[Callable[..., Run]]:
    """Makes a run with backends `first`, `second`, ..., and closes it after the test."""
    runs: list[Run] = []

    def make(*plugins: object, nonfinite: NonFinite = "raise", queue_size: int = 1000) -> Run:
        names = ["first", "second", "third"]
        backends = [Backend(name, plugin) for name, plugin in zip(names, plugins, strict=False)]
        runs.append(Run(INFO, backends, nonfinite=nonfinite, queue_size=queue_size))
        return runs[-1]

    yield make
    for run in runs:
        with contextlib.suppress(NonFiniteError):
            run.close("finished", LONG)


def row(
    step: int,
    values: Mapping[str, Any] | None = None,
    *,
    number: int | None = None,
    kind: str = "record",
    lane: int | None = None,
    at: float = 0.0,
    iteration: int | None = 0,
) -> Row:
    return Row(
        kind=kind,
        sequence=number,
        fingerprint=hash((step, number, lane, at)),
        step=step,
        iteration=iteration,
        lane=lane,
        values=dict(values or {}),
        wall_time=at,
    )


def end(run: Run) -> None:
    run.close("finished", LONG)


# ---- from rows to records -----------------------------------------------------------------------


def test_rows_reach_every_backend_in_order_with_everything_that_is_known(make: Any) -> None:
    first, second = Keeper(), Keeper()
    run = make(first, second)
    numbered = [row(10 * i, {"a": i}, number=i, at=5.0, iteration=i) for i in range(6)]
    run.receive(Rows.of([numbered[1], numbered[0]]))
    run.receive(Rows.of([numbered[3]]))
    run.receive(Rows.of([numbered[3], numbered[2]]))
    run.log_scalars(7, {"eval/return": 1.5})
    run.log_media(Text(8, "note", "between"))
    run.receive(Rows.of([numbered[5]]))
    end(run)  # row 4 never came
    assert first.order == second.order == [0, 10, 20, 30, 7, "between", 50]
    assert first.records == second.records
    assert first.records[1] == Scalars(10, {"a": 1}, iteration=1, wall_time=5.0)
    assert first.values("a") == [0, 1, 2, 3, 5]
    assert [record.iteration for record in first.records] == [0, 1, 2, 3, None, 5]


def test_lanes_are_ordered_apart_and_start_where_the_program_did(make: Any) -> None:
    keeper = Keeper()
    run = make(keeper)
    run.receive(Rows.of([row(0, {"a": 0}, number=0)]))  # before the lanes differ
    for i in (2, 1, 3):
        run.receive(Rows.of([row(i, {"a": i}, number=i, lane=lane) for lane in (0, 1)]))
    end(run)
    for lane in (0, 1):
        assert keeper.values("a", lane) == [1, 2, 3]
    assert keeper.values("a") == [0]


def test_records_without_a_value_are_not_sent(make: Any) -> None:
    keeper = Keeper()
    run = make(keeper)
    run.receive(Rows.of([row(1, {}), row(2, {}, kind="end"), row(0, {}, kind="start")]))
    run.log_scalars(3, {})
    end(run)
    assert keeper.records == []
    assert run.deliveries()[0].delivered == 0


# ---- steps a second -----------------------------------------------------------------------------


def rates(make: Any, *blocks: Sequence[Row]) -> dict[tuple[int | None, int], float]:
    """Lane and step to the rate of the record."""
    keeper = Keeper()
    run = make(keeper)
    for block in blocks:
        run.receive(Rows.of(block))
    end(run)
    return {
        (record.lane, record.step): float(record.values[STEPS_PER_SECOND])
        for record in keeper.records
        if STEPS_PER_SECOND in record.values
    }


X = {"x": 1.0}


def test_the_rate_is_steps_over_seconds_since_the_last_record_or_the_start(make: Any) -> None:
    assert rates(
        make,
        [row(0, kind="start", at=100.0)],
        [row(512, X, at=102.0)],
        [row(1024, X, at=102.5)],
    ) == {(None, 512): 256.0, (None, 1024): 1024.0}


def test_without_a_start_the_first_record_has_no_rate(make: Any) -> None:
    assert rates(make, [row(512, X, at=1.0)], [row(1024, X, at=2.0)]) == {(None, 1024): 512.0}


def test_of_a_buffered_block_the_last_record_has_the_rate_of_all(make: Any) -> None:
    start = [row(0, kind="start", at=10.0)]
    blocks = [[row(10 * i + j, X, at=10.0 + 2 * i) for j in range(10)] for i in (1, 2)]
    last = [row(40, X, at=16.0), row(40, kind="end", at=16.0)]
    assert rates(make, start, *blocks, last) == {
        (None, 19): 9.5,
        (None, 29): 5.0,
        (None, 40): 5.5,
    }


def test_every_lane_has_its_rate_and_all_have_one_start(make: Any) -> None:
    start = [row(0, kind="start", at=0.0)]
    blocks = [[row(8 * (lane + 1) * t, X, lane=lane, at=t) for lane in (0, 1)] for t in (1, 2)]
    assert rates(make, start, *blocks) == {(0, 8): 8.0, (1, 16): 16.0, (0, 16): 8.0, (1, 32): 16.0}


def test_a_second_program_is_measured_from_its_own_start(make: Any) -> None:
    first = [row(0, kind="start", at=0.0)], [row(10, X, lane=0, at=1.0)]
    idle = [row(10, kind="start", at=1001.0)], [row(30, X, lane=0, at=1002.0)]
    again = [row(0, kind="start", at=2000.0)], [row(5, X, lane=0, at=2001.0)]
    assert rates(make, *first, *idle, *again) == {(0, 10): 10.0, (0, 30): 20.0, (0, 5): 5.0}


def test_a_clock_or_a_step_that_goes_back_gives_no_rate_and_is_then_the_base(make: Any) -> None:
    assert rates(
        make,
        [row(0, kind="start", at=100.0)],
        [row(10, X, at=50.0)],  # the clock was set
        [row(20, X, at=51.0)],
        [row(5, X, at=52.0)],  # a restart without a start
        [row(9, X, at=53.0)],
        [row(9, X, at=54.0)],
        [row(10, X, at=54.0)],
        [row(12, X, at=55.0)],
    ) == {(None, 20): 10.0, (None, 9): 4.0, (None, 12): 2.0}


def test_what_is_logged_outside_an_iteration_neither_has_a_rate_nor_changes_one(make: Any) -> None:
    assert rates(
        make,
        [row(0, kind="start", at=0.0)],
        [row(1_000_000, {"eval/return": 1.0}, at=1.0, iteration=None)],
        [row(20, X, at=2.0), row(3, {"eval/return": 1.0}, at=2.0, iteration=None)],
    ) == {(None, 20): 10.0}


@settings(max_examples=50, deadline=None)
@given(
    points=st.lists(
        st.tuples(st.integers(1, 2**40), st.floats(2**-10, 1e6)), min_size=1, max_size=8
    )
)
def test_rates_times_seconds_add_up_to_the_steps(points: list[tuple[int, float]]) -> None:
    keeper = Keeper()
    run = Run(INFO, [Backend("one", keeper)])
    run.receive(Rows.of([row(0, kind="start", at=1e9)]))
    step, now, times = 0, 1e9, []
    for steps, seconds in points:
        step, now = step + steps, now + seconds
        times.append(now)
        run.receive(Rows.of([row(step, X, at=now)]))
    end(run)
    seconds = [b - a for a, b in zip([1e9, *times], times, strict=False)]
    measured = [float(record.values[STEPS_PER_SECOND]) for record in keeper.records]
    total = sum(rate * span for rate, span in zip(measured, seconds, strict=True))
    assert total == pytest.approx(step, rel=1e-12)


# ---- NaN and infinity ---------------------------------------------------------------------------


def log_from_host(run: Run, step: int, values: Mapping[str, Any], lane: int | None) -> None:
    run.log_scalars(step, values)


def log_from_device(run: Run, step: int, values: Mapping[str, Any], lane: int | None) -> None:
    run.receive(Rows.of([row(step, values, lane=lane)]))


FROM = pytest.mark.parametrize("log", [log_from_host, log_from_device])


@FROM
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_value_that_is_not_finite_reaches_no_backend_and_raises_once(
    make: Any, caplog: pytest.LogCaptureFixture, log: Callable[..., None], bad: float
) -> None:
    first, second = Keeper(), Keeper()
    run = make(first, second)
    lane = 3 if log is log_from_device else None
    log(run, 64, {"train/loss": bad, "train/kl": 0.5}, lane)
    log(run, 65, {"train/loss": bad}, lane)
    log(run, 66, {"train/loss": 1.0}, lane)
    with pytest.raises(NonFiniteError) as raised:
        run.flush(LONG)
    message = str(raised.value)
    where = "`train/loss` is " + str(bad) + " at step 64" + (", lane 3" if lane else "")
    assert "run `walk`" in message
    assert where in message
    assert "2 value(s)" in message
    (entry,) = caplog.records
    assert where in entry.getMessage()
    assert entry.levelno == logging.ERROR
    run.flush(LONG)  # told once
    log(run, 70, {"train/loss": bad}, lane)
    with pytest.raises(NonFiniteError, match=r"at step 70.*; 1 value\(s\)"):
        run.close("finished", LONG)
    for keeper in (first, second):
        assert keeper.values("train/loss", lane) == [1.0]
        assert keeper.values("train/kl", lane) == [0.5]
    assert all(d.undelivered == 0 for d in run.deliveries())


@FROM
def test_warn_leaves_it_at_a_line_for_each_tag(
    make: Any, caplog: pytest.LogCaptureFixture, log: Callable[..., None]
) -> None:
    keeper = Keeper()
    run = make(keeper, nonfinite="warn")
    for step in range(5):
        log(run, step, {"a": NAN, "b": INF, "c": 1.0}, None)
    run.flush(LONG)
    end(run)
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING] * 2
    assert keeper.values("c") == [1.0] * 5
    assert keeper.values("a") == keeper.values("b") == []


@FROM
def test_keep_sends_it_as_it_is(make: Any, log: Callable[..., None]) -> None:
    keeper = Keeper()
    run = make(keeper, nonfinite="keep")
    log(run, 1, {"a": NAN, "b": -INF}, None)
    end(run)
    (record,) = keeper.records
    assert math.isnan(record.values["a"])
    assert record.values["b"] == -INF


@FROM
@pytest.mark.parametrize("tag", ["train/learning_rate", "train/learning_rate/head"])
def test_an_unknown_learning_rate_is_nan_and_an_infinite_one_an_error(
    make: Any, log: Callable[..., None], tag: str
) -> None:
    keeper = Keeper()
    run = make(keeper)
    log(run, 1, {tag: NAN}, None)
    run.flush(LONG)
    assert math.isnan(float(keeper.records[0].values[tag]))
    log(run, 2, {tag: INF}, None)
    log(run, 3, {"train/learning_rates": NAN}, None)
    with pytest.raises(NonFiniteError, match=r"at step 2; 2 value\(s\)"):
        end(run)
    assert len(keeper.records) == 1


def test_ints_and_bools_of_any_size_are_finite(make: Any) -> None:
    keeper = Keeper()
    run = make(keeper)
    values = {"a": 10**400, "b": True, "c": -(2**63)}
    run.log_scalars(1, values)
    end(run)
    assert keeper.records[0].values == values


# ---- flush and close ----------------------------------------------------------------------------


def test_flush_waits_for_every_backend(make: Any) -> None:
    first, second = Keeper(), Keeper()
    run = make(first, second)
    run.log_scalars(1, X)
    run.flush(LONG)
    assert first.order == second.order == [1]
    assert first.flushes >= 1
    assert second.flushes >= 1


def test_flush_and_close_give_a_backend_up_that_hangs_and_serve_the_others(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hung, other = Keeper(), Keeper()
    hung.gate.clear()
    run = make(hung, other)
    run.log_scalars(1, X)
    assert hung.entered.wait(LONG)
    run.log_scalars(2, X)
    run.flush(0.01)
    run.close("finished", 0.1)
    assert "metriplex-first" in {thread.name for thread in threading.enumerate()}
    assert other.closed.wait(LONG)
    assert other.order == [1, 2]
    assert other.statuses == ["finished"]
    assert [(d.delivered, d.undelivered) for d in run.deliveries()] == [(0, 2), (2, 0)]
    entry = caplog.records[0].getMessage()
    assert "2 of 2 record(s) did not reach backend `first`" in entry
    assert "still busy after 0.1 s" in entry
    hung.gate.set()


def test_a_backend_behind_one_that_hangs_is_hurried_too(make: Any) -> None:
    class Refused:
        tried = threading.Event()
        closed = threading.Event()

        @hookimpl
        def log_scalars(self) -> None:
            self.tried.set()
            raise OSError("refused")

        @hookimpl
        def close_run(self) -> None:
            self.closed.set()

    hung, refused = Keeper(), Refused()
    hung.gate.clear()
    run = make(hung, refused)
    run.log_scalars(1, X)
    assert refused.tried.wait(LONG)
    closing = threading.Thread(target=run.close, args=("finished", LONG))
    closing.start()
    assert refused.closed.wait(LONG)  # although the pauses add up to half a minute
    assert closing.is_alive()
    hung.gate.set()
    closing.join(LONG)


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_close_delivers_what_is_queued_and_is_made_once(make: Any, status: str) -> None:
    keeper = Keeper()
    keeper.gate.clear()
    run = make(keeper)
    for step in range(100):
        run.log_scalars(step, X)
    keeper.gate.set()
    run.close(status, LONG)
    run.close("failed", LONG)
    assert keeper.order == list(range(100))
    assert keeper.statuses == [status]
    assert keeper.flushes >= 1


def test_a_second_thread_that_closes_waits_for_the_first(make: Any) -> None:
    keeper = Keeper()
    keeper.gate.clear()
    run = make(keeper)
    run.log_scalars(1, X)
    assert keeper.entered.wait(LONG)
    ended: list[list[str]] = []

    def close() -> None:
        run.close("finished", LONG)
        ended.append(list(keeper.statuses))

    threads = [threading.Thread(target=close) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert ended == []
    keeper.gate.set()
    for thread in threads:
        thread.join(LONG)
    assert ended == [["finished"]] * 3


def test_what_waits_for_a_lost_row_is_delivered_at_release_and_at_close(make: Any) -> None:
    keeper = Keeper()
    run = make(keeper)
    run.receive(Rows.of([row(2, X, number=2), row(1, X, number=1)]))
    run.release()
    run.flush(LONG)
    assert keeper.order == [1, 2]
    run.receive(Rows.of([row(9, X, number=9)]))
    end(run)
    assert keeper.order == [1, 2, 9]


def test_a_closed_run_says_so(make: Any) -> None:
    run = make(Keeper())
    end(run)
    for use in (
        lambda: run.log_scalars(1, X),
        lambda: run.log_hparams({}),
        lambda: run.log_media(Text(1, "a", "b")),
        lambda: run.flush(LONG),
    ):
        with pytest.raises(ClosedError, match="run `walk` is closed: log before `close`"):
            use()
    run.receive(Rows.of([row(1, X)]))
    assert [(d.delivered, d.undelivered) for d in run.deliveries()] == [(0, 1)]


def test_rejected_values_do_not_keep_a_run_open(make: Any) -> None:
    keeper = Keeper()
    run = make(keeper)
    run.log_scalars(1, {"a": NAN, "b": 1.0})
    with pytest.raises(NonFiniteError, match="`a` is nan at step 1"):
        end(run)
    assert keeper.values("b") == [1.0]
    assert keeper.statuses == ["finished"]
    end(run)


def test_a_run_without_backends_works(make: Any) -> None:
    run = make()
    run.log_scalars(1, X)
    run.flush(LONG)
    end(run)
    assert run.deliveries() == ()


# ---- threads and memory -------------------------------------------------------------------------


def test_many_threads_log_one_order_for_all_backends(make: Any) -> None:
    first, second = Keeper(), Keeper()
    run = make(first, second, queue_size=10_000)

    def log(offset: int) -> None:
        for i in range(200):
            run.log_scalars(offset + i, X)
            if not i % 20:
                run.log_media(Text(i, "note", f"{offset + i}"))

    threads = [threading.Thread(target=log, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    end(run)
    assert len(first.order) == 4 * 210
    assert first.order == second.order


def test_a_hundred_runs_leave_no_thread(make: Any) -> None:
    before = set(threading.enumerate())
    for _ in range(100):
        run = make(Keeper(), Keeper())
        run.log_scalars(1, X)
        end(run)
    assert set(threading.enumerate()) == before


@pytest.mark.slow
def test_memory_is_flat() -> None:
    program = """
        import tracemalloc
        from metriplex import RunInfo, hookimpl
        from metriplex.bridge.rows import Row, Rows
        from metriplex.plugins.backends import Backend
        from metriplex.run.run import Run
        class Counter:
            count = 0
            @hookimpl
            def log_scalars(self, records):
                self.count += len(records)
        counter = Counter()
        info = RunInfo("1", "a", Path.cwd(), 0.0)
        run = Run(info, [Backend("counter", counter)], queue_size=65_536)
        def log(first, last):
            for step in range(first, last):
                values = {f"train/{i}": 0.5 for i in range(20)}
                run.receive(Rows.of([Row("record", step, step, step, step, None, values, step)]))
                if not step % 1000:
                    run.flush(60.0)
            run.flush(60.0)
            return tracemalloc.get_traced_memory()[0]
        tracemalloc.start()
        settled = log(0, 70_000)  # the memory of sequence numbers is full
        print(log(70_000, 200_000) - settled)
        run.close("finished", 60.0)
        print(counter.count)
    """
    done = interpreter.run("from pathlib import Path\n" + textwrap.dedent(program), timeout=600)
    assert done.stderr == ""
    grown, count = map(int, done.stdout.split())
    assert count == 200_000
    assert grown < 200_000


def test_finite_values_whose_sum_is_none_reach_backends(make: Any) -> None:
    keeper = Keeper()
    run = make(keeper)
    values = {"a": 1e308, "b": 1e308, "c": 10**400}
    run.log_scalars(1, values)
    run.log_scalars(2, {"a": INF, "b": -INF, "c": 1})
    with pytest.raises(NonFiniteError, match="2 value"):
        run.flush(LONG)
    end(run)
    assert [dict(record.values) for record in keeper.records] == [values, {"c": 1}]
