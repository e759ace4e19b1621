"""A run's journal and its backends: records are read again, and outages are waited out."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex import ConfigurationError, Image, MetricsCallback, RunInfo, Scalars, Text, hookimpl
from metriplex.delivery.calls import (
    BATCH,
    Call,
    CallQueue,
    Gap,
    flush,
    log_entries,
    log_scalars,
)
from metriplex.delivery.run_journal import RunJournal
from metriplex.journal import Close, Entry, Hparams, read_entries
from metriplex.journal.acks import Ack, ack_path, clamp_acks, load_ack
from metriplex.plugins.backends import Backend
from metriplex.run.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

LONG = 60.0
X = {"x": 1.0}


@final
class Service:
    """A tracking service: unreachable while it is down, and slow while its gate is closed."""

    flush_secs = 1e-3

    def __init__(self) -> None:
        self.down: type[Exception] | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.tried = threading.Semaphore(0)
        self.got: list[object] = []

    def _take(self, *things: object) -> None:
        self.entered.set()
        assert self.gate.wait(LONG)
        if self.down is not None:
            self.tried.release()
            raise self.down("away")
        self.got += things

    @hookimpl
    def log_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._take(dict(hparams))

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self._take(*(record.step for record in records))

    @hookimpl
    def log_text(self, text: Text) -> None:
        self._take(text.text)

    @hookimpl
    def flush(self) -> None:
        pass


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Return a function that makes a run with backends `first`, ...; the fixture closes it."""
    runs: list[Run] = []

    def make(*plugins: object, queue_size: int = 1000, **options: Any) -> Run:
        info = RunInfo("0f", "walk", tmp_path, 0.0)
        journal = RunJournal(info, **options)
        names = ["first", "second", "third"]
        backends = [Backend(name, plugin) for name, plugin in zip(names, plugins, strict=False)]
        runs.append(Run(info, backends, queue_size=queue_size, journal=journal))
        return runs[-1]

    yield make
    for run in runs:
        run.close("finished", LONG)


def acked(directory: Path, name: str = "first") -> tuple[int, list[tuple[int, int]]]:
    ack = load_ack(directory, name)
    assert ack is not None
    return ack.acked, ack.missed


# ---- the queue ----------------------------------------------------------------------------------


def scalars(first: int, count: int = 1) -> Call:
    return log_scalars(first, [Scalars(step, X) for step in range(first, first + count)])


def taken(queue: CallQueue) -> list[tuple[str, int, int]]:
    found = []
    while queue:
        queued = queue.take()
        hook = queued.hook if isinstance(queued, Call) else "gap"
        if isinstance(queued, Call) and queued.hook == "log_scalars":
            assert len(queued.records) == queued.end - queued.first
        found.append((hook, queued.first, queued.end))
    return found


def test_what_finds_no_room_is_a_gap_until_the_worker_has_come_to_it() -> None:
    queue = CallQueue(4, rereads=True)
    assert queue.add(scalars(0, 3))
    assert not queue.add(scalars(3, 2))  # the first of them fits
    assert not queue.add(scalars(5))
    queue.add(flush(6))
    assert not queue.add(scalars(6))
    assert (queue.take().end, queue.waiting) == (4, 0)
    assert not queue.add(scalars(7))  # there is room, but not for what comes after a gap
    assert queue.take() == Gap(4, 6)
    assert queue.add(scalars(8))
    assert taken(queue) == [("flush", 6, 6), ("gap", 6, 8), ("log_scalars", 8, 9)]


def test_without_a_journal_the_newest_are_dropped() -> None:
    queue = CallQueue(4, rereads=False)
    assert queue.add(scalars(0, 3))
    assert not queue.add(scalars(3, 2))
    assert not queue.add(scalars(5))
    assert taken(queue) == [("log_scalars", 0, 4)]
    assert queue.add(scalars(6))
    assert taken(queue) == [("log_scalars", 6, 7)]


@given(
    steps=st.lists(st.tuples(st.sampled_from(["add", "take"]), st.integers(1, 5)), max_size=40),
    size=st.integers(1, 8),
)
def test_every_number_is_in_exactly_one_call_or_gap_in_order(
    steps: list[tuple[str, int]], size: int
) -> None:
    queue = CallQueue(size, rereads=True)
    found: list[int] = []
    end = 0
    for what, count in steps:
        if what == "add":
            queue.add(scalars(end, count))
            end += count
        elif queue:
            queued = queue.take()
            found += range(queued.first, queued.end)
        assert queue.waiting <= size
    found += [number for _, first, last in taken(queue) for number in range(first, last)]
    assert found == list(range(end))


def test_entries_become_calls_by_the_thousand() -> None:
    entries = [Entry(n, Scalars(n, X)) for n in range(BATCH + 2)]
    entries += [
        Entry(BATCH + 2, Text(1, "note", "hi")),
        Entry(BATCH + 3, Hparams({"lr": 0.1})),
        Entry(BATCH + 4, Close("finished")),
        Entry(BATCH + 5, Scalars(1, X)),
    ]
    found = list(log_entries(entries, 0, BATCH + 6, lambda entry: entry.number == 3))
    calls = [call for call in found if isinstance(call, Call)]
    assert len(calls) == len(found)
    assert [(call.hook, call.first, call.end, len(call.records)) for call in calls] == [
        ("log_scalars", 0, BATCH + 1, BATCH),
        ("log_scalars", BATCH + 1, BATCH + 2, 1),
        ("log_text", BATCH + 2, BATCH + 3, 1),
        ("log_hparams", BATCH + 3, BATCH + 4, 1),
        ("log_scalars", BATCH + 5, BATCH + 6, 1),
    ]


# ---- the journal --------------------------------------------------------------------------------


def test_everything_is_in_the_journal_in_the_order_of_the_backends(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    service = Service()
    run = make(service)
    run.log_hparams({"lr": 0.1})
    run.log_scalars(1, X)
    run.log_media(Text(2, "note", "between"))
    run.log_media(Image(2, "pixels", np.zeros((2, 2, 3), np.uint8)))  # `first` has no such hook
    run.log_scalars(3, {})
    run.log_scalars(4, X)
    run.close("failed", LONG)
    assert service.got == [{"lr": 0.1}, 1, "between", 4]
    entries = list(read_entries(tmp_path))
    assert [entry.number for entry in entries] == list(range(6))
    records = [entry.record for entry in entries]
    assert records[0] == Hparams({"lr": 0.1})
    assert isinstance(records[3], Image)
    assert [record.step for record in records if isinstance(record, Scalars)] == [1, 4]
    assert records[5] == Close("failed")
    assert acked(tmp_path) == (5, [])


def test_a_run_without_backends_is_kept(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make()
    run.log_scalars(1, X)
    run.flush(LONG)
    assert isinstance(next(read_entries(tmp_path)).record, Scalars)


def test_what_a_slow_backend_lags_behind_it_gets_from_the_journal_once_and_in_order(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    slow, quick = Service(), Service()
    slow.gate.clear()
    run = make(slow, quick, queue_size=10, flush_secs=0.01)
    expected: list[object] = []
    run.log_scalars(0, X)
    assert slow.entered.wait(LONG)
    for step in range(1, 3000):
        run.log_scalars(step, X)
        if step % 100 == 0:
            run.log_media(Text(step, "note", f"at {step}"))
        if step == 2000:
            slow.gate.set()
    for step in range(3000):
        expected += [step, f"at {step}"] if step and step % 100 == 0 else [step]
    run.close("finished", LONG)
    assert slow.got == quick.got == expected
    assert [(d.delivered, d.undelivered) for d in run.deliveries()] == [(len(expected), 0)] * 2
    assert acked(tmp_path) == (len(expected), [])


def test_an_outage_is_waited_out_and_loses_nothing(
    make: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service, other = Service(), Service()
    service.down = ConnectionRefusedError
    run = make(service, other, queue_size=10)
    run._workers[0]._sender._retry_seconds = (1e-3,)
    for step in range(200):
        run.log_scalars(step, X)
    for _ in range(20):  # far more often than without a journal
        assert service.tried.acquire(timeout=LONG)
    assert not run.deliveries()[0].suspended
    assert run.deliveries()[0].undelivered == 200
    service.down = None
    run.log_scalars(200, X)
    run.close("finished", LONG)
    assert service.got == other.got == list(range(201))
    assert acked(tmp_path) == (201, [])
    first, second = caplog.messages
    assert "backend `first` keeps failing in `log_scalars` (ConnectionRefusedError: away)" in first
    assert second == "backend `first` works again"


def test_what_is_unsent_at_the_end_is_said_with_the_command_that_sends_it(
    make: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    run = make(service, queue_size=10)
    run.log_scalars(0, X)
    run.flush(LONG)
    service.down = OSError
    for step in range(1, 50):
        run.log_scalars(step, X)
    assert service.tried.acquire(timeout=LONG)
    run.close("finished", LONG)
    assert service.got == [0]
    (delivery,) = run.deliveries()
    assert (delivery.delivered, delivery.undelivered, delivery.journaled) == (1, 49, 49)
    assert acked(tmp_path) == (1, [])
    message = caplog.messages[-1]
    assert "49 of 50 record(s) did not reach backend `first`" in message
    assert f"`metriplex replay {tmp_path} --to first`" in message


def test_a_call_that_fails_for_good_is_missed_and_so_is_what_follows_a_suspension(
    make: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    run = make(service)
    for step in range(10):
        service.down = ValueError if step in (2, 3, 5, 7, 8, 9) else None
        run.log_scalars(step, X)
        run.flush(LONG)
    run.log_scalars(10, X)
    run.close("finished", LONG)
    assert service.got == [0, 1, 4, 6]
    assert acked(tmp_path) == (9, [(2, 4), (5, 6), (7, 9)])
    assert run.deliveries()[0].suspended
    assert "--to first" in caplog.messages[-1]


def test_what_a_backend_took_before_its_suspension_is_flushed_and_acknowledged(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    @final
    class Slow:
        """A backend that is flushed only when it is asked to."""

        flush_secs = 3600.0

        def __init__(self) -> None:
            self.calls: list[object] = []

        @hookimpl
        def log_text(self, text: Text) -> None:
            if text.step > 2:
                raise ValueError("full")
            self.calls.append(text.step)

        @hookimpl
        def flush(self) -> None:
            self.calls.append("flush")

        @hookimpl
        def close_run(self, status: str) -> None:
            self.calls.append(status)

    slow = Slow()
    run = make(slow)
    for step in range(6):
        run.log_media(Text(step, "note", "x"))
        if step == 1:
            run.flush(LONG)
    run.close("finished", LONG)
    assert [call for call in slow.calls if call != "flush"] == [0, 1, 2, "finished"]
    assert slow.calls[-2:] == ["flush", "finished"]
    assert acked(tmp_path)[0] >= 3
    assert run.deliveries()[0].suspended


def test_the_state_of_a_backend_is_written_while_the_run_goes_on(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    service = Service()
    run = make(service)
    for count in (1, 2, 3):
        run.log_scalars(count, X)
        run.flush(LONG)
        assert json.loads(ack_path(tmp_path, "first").read_text()) == {
            "acked": count,
            "missed": [],
        }


def test_a_journal_that_takes_nothing_costs_only_what_found_no_room(
    make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other backend goes on at once; the gap is `missed` once the disk has room again."""
    service = Service()
    service.gate.clear()
    run = make(service, queue_size=10, flush_secs=1e-3)
    run.log_scalars(0, X)
    assert service.entered.wait(LONG)
    run.flush(0.0)
    full = threading.Event()
    journal = run._journal_worker
    assert journal is not None
    journal._sender._retry_seconds = (1e-3,)
    target: Any = journal.target

    def refuse() -> None:
        full.set()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(target._writer, "flush", refuse)
        for step in range(1, 31):
            run.log_scalars(step, X)
        assert full.wait(LONG)
        service.gate.set()
        flushed = run._workers[0].start_flush()
        assert flushed.wait(LONG)
        assert service.got == list(range(11))
    run.close("finished", LONG)
    assert [e.record.step for e in read_entries(tmp_path) if isinstance(e.record, Scalars)] == list(
        range(31)
    )
    assert acked(tmp_path) == (31, [(11, 31)])
    (delivery,) = run.deliveries()
    assert (delivery.delivered, delivery.undelivered, delivery.journaled) == (11, 20, 20)


@settings(max_examples=25, deadline=None)
@given(
    plan=st.lists(st.sampled_from(["log", "text", "flush", "open", "shut"]), max_size=40),
    queue_size=st.integers(1, 6),
)
def test_whatever_the_speed_every_record_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, plan: list[str], queue_size: int
) -> None:
    info = RunInfo("0f", "walk", tmp_path_factory.mktemp("run"), 0.0)
    service = Service()
    journal = RunJournal(info, flush_secs=1e-3, fsync="never")
    run = Run(info, [Backend("first", service)], queue_size=queue_size, journal=journal)
    expected: list[object] = []
    for step, what in enumerate(plan):
        if what == "log":
            run.log_scalars(step, X)
            expected.append(step)
        elif what == "text":
            run.log_media(Text(step, "note", f"{step}"))
            expected.append(f"{step}")
        elif what == "flush":
            run._workers[0].start_flush()
        else:
            service.gate.set() if what == "open" else service.gate.clear()
    service.gate.set()
    run.close("finished", LONG)
    assert service.got == expected
    assert acked(info.directory) == (len(expected), [])


# ---- acknowledgements on disk -------------------------------------------------------------------


def test_what_a_backend_has_no_hook_for_is_not_owed_to_it(
    make: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(Service())
    run.log_scalars(1, X)
    run.log_media(Image(2, "frame", np.zeros((1, 1, 3), np.uint8)))
    run.flush(LONG)
    assert acked(tmp_path) == (2, [])
    run.log_media(Image(3, "frame", np.zeros((1, 1, 3), np.uint8)))
    run.close("finished", LONG)
    assert acked(tmp_path) == (3, [])
    assert caplog.records == []


def test_an_ack_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    assert load_ack(tmp_path, "../my own") is None
    ack = Ack(ack_path(tmp_path, "../my own"), 12)
    for first, end in ((1, 2), (2, 4), (4, 4), (6, 9)):
        ack.miss(first, end)
    assert ack.missed == [(1, 4), (6, 9)]
    ack.save()
    assert load_ack(tmp_path, "../my own") == ack
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["..%2Fmy own.ack"]
    clamp_acks(tmp_path, 12)
    assert load_ack(tmp_path, "../my own") == ack
    clamp_acks(tmp_path, 7)
    assert acked(tmp_path, "../my own") == (7, [(1, 4), (6, 7)])


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"acked": 5}'),
        *('{"acked": -1, "missed": []}', '{"acked": true, "missed": []}'),
        *('{"acked": 5, "missed": [[3, 9]]}', '{"acked": 5, "missed": [[3, 2]]}'),
    ],
)
def test_a_damaged_ack_says_how_to_mend_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal").mkdir()
    ack_path(tmp_path, "first").write_text(text)
    with pytest.raises(ConfigurationError, match=r"first.ack` is damaged.*remove it to send"):
        load_ack(tmp_path, "first")


# ---- a callback ---------------------------------------------------------------------------------


def test_the_journal_is_on_by_default_and_can_be_switched_off(tmp_path: Path) -> None:
    for name, journal in (("on", True), ("off", False), ("set", {"fsync": "never"})):
        with MetricsCallback(name, log_dir=tmp_path, backends=[], journal=journal) as metrics:
            metrics.log(7, {"a": 0.5})
        kept = [e.record for e in read_entries(metrics.directory) if isinstance(e.record, Scalars)]
        assert [(record.step, record.values) for record in kept] == (
            [] if name == "off" else [(7, {"a": 0.5})]
        )
        assert (metrics.directory / "journal").exists() == (name != "off")


@pytest.mark.parametrize(
    ("journal", "message"),
    [
        ("yes", "`journal` must be True, False or a dictionary of flush_secs, fsync, max_bytes"),
        ({"sync": 1}, "`journal` must be True, False or a dictionary"),
        ({"fsync": "often"}, "`fsync` must be one of 'never', 'flush', 'always'"),
        ({"max_bytes": 0}, "`max_bytes` must be an int of at least 1"),
        ({"flush_secs": 0}, "`flush_secs` must be a number above 0"),
    ],
)
def test_options_that_no_journal_has(tmp_path: Path, journal: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MetricsCallback(log_dir=tmp_path, backends=[], journal=journal)
    assert list(tmp_path.iterdir()) == []


def test_a_suspended_journal_is_told_and_stops_nobody(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    run = make(service, queue_size=5)
    target: Any = run._journal

    def refuse(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(target._writer, "append", refuse)
    for step in range(20):
        run.log_scalars(step, X)
        run.flush(LONG)
    run.close("finished", LONG)
    assert service.got == list(range(20))
    told = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert any("backend `journal` is suspended" in message for message in told)
    assert any("20 of 20 record(s) did not reach backend `journal`" in message for message in told)
