from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex import (
    Artifact,
    Histogram,
    Image,
    RunInfo,
    Scalars,
    Text,
    TransientError,
    Video,
    hookimpl,
)
from metriplex.delivery.calls import log_hparams, log_media, log_scalars, log_text
from metriplex.delivery.sender import FAILURES
from metriplex.delivery.worker import Worker
from metriplex.plugins.backends import Backend
from metriplex.plugins.hookspecs import BACKEND_HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RUN = RunInfo(id="0f", name="run", directory=Path("logs/run"), start_time=0.0)
TEXT = Text(3, "note", "hello")
VIDEO = Video(4, "eval/video", np.zeros((1, 2, 2, 3), np.uint8), 50.0)
IMAGE = Image(5, "frame", np.zeros((2, 2, 3), np.uint8))
HISTOGRAM = Histogram(6, "weights", np.array([1]), np.array([0.0, 1.0]))
ARTIFACT = Artifact(7, "policy.npz", Path("logs/run/artifacts/step_7/policy.npz"))
LONG = 60.0
"""Seconds after which a test that waits has failed; no test that passes waits so long."""


def block(first: int, count: int = 1) -> tuple[Scalars, ...]:
    return tuple(Scalars(step=step, values={"a": 0.5}) for step in range(first, first + count))


@final
class Scripted:
    """A backend that fails and hangs by plan.

    Args:
        plans: For a hook, what its next calls do: raise an exception, wait for an event, or succeed
            (None). What comes after the plan succeeds.
        flush_secs: As of any backend.

    Attributes:
        calls: All calls that were begun: hook, argument, thread.
        done: The calls of them that succeeded: hook, argument.
        begun: For each hook, released at each call.
    """

    def __init__(
        self, plans: Mapping[str, Sequence[object]] | None = None, *, flush_secs: float = 3600.0
    ) -> None:
        self.flush_secs = flush_secs
        self.plans = {hook: iter(plan) for hook, plan in (plans or {}).items()}
        self.calls: list[tuple[str, object, threading.Thread]] = []
        self.done: list[tuple[str, object]] = []
        self.begun = {hook: threading.Semaphore(0) for hook in BACKEND_HOOKS}

    def _act(self, hook: str, argument: object) -> None:
        self.calls.append((hook, argument, threading.current_thread()))
        self.begun[hook].release()
        action = next(self.plans.get(hook, iter(())), None)
        if isinstance(action, threading.Event):
            assert action.wait(LONG)
        elif isinstance(action, BaseException):
            raise action
        self.done.append((hook, argument))

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self._act("open_run", run)

    @hookimpl
    def log_hparams(self, hparams: Any) -> None:
        self._act("log_hparams", hparams)

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self._act("log_scalars", records)

    @hookimpl
    def log_text(self, text: Text) -> None:
        self._act("log_text", text)

    @hookimpl
    def log_video(self, video: Video) -> None:
        self._act("log_video", video)

    @hookimpl
    def log_image(self, image: Image) -> None:
        self._act("log_image", image)

    @hookimpl
    def log_histogram(self, histogram: Histogram) -> None:
        self._act("log_histogram", histogram)

    @hookimpl
    def log_artifact(self, artifact: Artifact) -> None:
        self._act("log_artifact", artifact)

    @hookimpl
    def flush(self) -> None:
        self._act("flush", None)

    @hookimpl
    def close_run(self, status: str) -> None:
        self._act("close_run", status)

    def hooks(self) -> list[str]:
        return [hook for hook, _, _ in self.calls]

    def flushed(self) -> int:
        """Return how many records it had taken before its last flush."""
        taken = flushed = 0
        for hook, argument in self.done:
            if hook == "flush":
                flushed = taken
            elif hook.startswith("log_"):
                taken += len(argument) if isinstance(argument, Sequence) else 1
        return flushed

    def steps(self) -> list[int]:
        """Return the steps of all records that it took."""
        return [
            record.step
            for hook, records in self.done
            if hook == "log_scalars" and isinstance(records, Sequence)
            for record in records
        ]


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    """Return a list of workers, which are closed after the test."""
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.start_close("finished")
        assert worker.join(LONG)


@pytest.fixture
def start(workers: list[Worker]) -> Any:
    def start(plugin: object, queue_size: int = 1000, **options: Any) -> Worker:
        options.setdefault("retry_seconds", (0.0, 0.0))
        worker = Worker(Backend("mine", plugin), RUN, queue_size=queue_size, **options)
        workers.append(worker)
        return worker

    return start


def submit(worker: Worker, records: Sequence[Scalars]) -> None:
    worker.submit(log_scalars(worker._end, records))


def submit_text(worker: Worker) -> None:
    worker.submit(log_text(worker._end, TEXT))


def flush(worker: Worker) -> None:
    assert worker.start_flush().wait(LONG)


def close(worker: Worker, status: str = "finished") -> None:
    worker.start_close(status)
    assert worker.join(LONG)


def counts(worker: Worker) -> tuple[int, int]:
    delivery = worker.delivery()
    return delivery.delivered, delivery.undelivered


def submit_all_kinds(worker: Worker) -> int:
    worker.submit(log_hparams(worker._end, {"lr": 0.1}))
    submit(worker, block(1, 2))
    for record in (TEXT, VIDEO, IMAGE, HISTOGRAM, ARTIFACT):
        worker.submit(log_media(worker._end, record))
    return 8


# ---- order and batches --------------------------------------------------------------------------


def test_every_hook_is_called_in_order_from_one_thread_that_then_ends(start: Any) -> None:
    plugin = Scripted()
    worker = start(plugin)
    submit_all_kinds(worker)
    close(worker, "interrupted")
    assert [(hook, argument) for hook, argument, _ in plugin.calls if hook != "flush"] == [
        ("open_run", RUN),
        ("log_hparams", {"lr": 0.1}),
        ("log_scalars", block(1, 2)),
        ("log_text", TEXT),
        ("log_video", VIDEO),
        ("log_image", IMAGE),
        ("log_histogram", HISTOGRAM),
        ("log_artifact", ARTIFACT),
        ("close_run", "interrupted"),
    ]
    assert plugin.hooks()[-2:] == ["flush", "close_run"]
    (thread,) = {thread for _, _, thread in plugin.calls}
    assert thread.name == "metriplex-mine"
    assert not thread.is_alive()
    assert counts(worker) == (8, 0)


def test_a_backend_is_not_asked_nor_counted_for_hooks_that_it_lacks(start: Any) -> None:
    class Scalar:
        seen: Sequence[Scalars] = ()

        @hookimpl
        def log_scalars(self, records: Sequence[Scalars]) -> None:
            self.seen = [*self.seen, *records]

    plugin = Scalar()
    worker = start(plugin)
    submit_all_kinds(worker)
    close(worker)
    assert list(plugin.seen) == list(block(1, 2))
    assert counts(worker) == (2, 0)


def test_records_that_wait_are_handed_over_in_one_call_and_nothing_overtakes(start: Any) -> None:
    held = threading.Event()
    plugin = Scripted({"open_run": [held]})
    worker = start(plugin)
    for first in range(0, 6, 2):
        submit(worker, block(first, 2))
    submit_text(worker)
    submit(worker, block(6))
    submit(worker, block(7))
    held.set()
    close(worker)
    assert [call for call in plugin.done if call[0].startswith("log")] == [
        ("log_scalars", block(0, 6)),
        ("log_text", TEXT),
        ("log_scalars", block(6, 2)),
    ]


def test_the_newest_records_are_dropped_from_a_full_queue_and_counted(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    held = threading.Event()
    plugin = Scripted({"log_scalars": [held]})
    worker = start(plugin, queue_size=10)
    submit(worker, block(0))
    assert plugin.begun["log_scalars"].acquire(timeout=LONG)
    for first in range(1, 29, 7):
        submit(worker, block(first, 7))  # 1 to 10 fit
    submit_text(worker)
    assert counts(worker) == (0, 30)
    held.set()
    flush(worker)
    assert plugin.steps() == list(range(11))
    assert counts(worker) == (11, 19)
    (warning,) = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
    assert "backend `mine`" in warning.getMessage()
    assert "10 records wait" in warning.getMessage()
    submit(worker, block(100, 10))
    close(worker)
    assert plugin.steps() == [*range(11), *range(100, 110)]
    assert counts(worker) == (21, 19)


def test_a_block_greater_than_the_queue_is_cut(start: Any) -> None:
    plugin = Scripted({"open_run": [held := threading.Event()]})
    worker = start(plugin, queue_size=3)
    submit(worker, block(0, 5))
    held.set()
    close(worker)
    assert plugin.steps() == [0, 1, 2]
    assert counts(worker) == (3, 2)


# ---- failures -----------------------------------------------------------------------------------


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


ERRORS = [
    ValueError("bad"),
    SystemExit(3),
    KeyboardInterrupt(),
    MemoryError("none left"),
    GeneratorExit(),
    StopIteration(),
    BaseExceptionGroup("both", [ValueError(), SystemExit()]),
    UnprintableError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_loses_the_records_of_that_call_alone(
    start: Any, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    plugin = Scripted({"log_scalars": [None, error]})
    worker = start(plugin)
    for first in (0, 1, 2):
        submit(worker, block(first))
        flush(worker)
    close(worker)
    assert plugin.steps() == [0, 2]
    assert counts(worker) == (2, 1)
    (entry,) = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    message = entry.getMessage()
    assert "backend `mine`" in message
    assert "`log_scalars`" in message
    assert type(error).__name__ in message
    assert "the record of step 1 " in message
    known = worker.delivery().error
    assert known is not None
    assert known.startswith(type(error).__name__)
    assert not worker.delivery().suspended


@pytest.mark.parametrize("hook", [hook for hook in BACKEND_HOOKS if hook.startswith("log_")])
def test_an_error_in_one_hook_leaves_the_calls_of_the_others(start: Any, hook: str) -> None:
    plugin = Scripted({hook: [ValueError("bad")]})
    worker = start(plugin)
    submitted = submit_all_kinds(worker)
    close(worker)
    if hook == "log_scalars":  # refused together, taken one by one
        assert counts(worker) == (submitted, 0)
        assert {hook for hook, _ in plugin.done} == set(BACKEND_HOOKS)
    else:
        assert counts(worker) == (submitted - 1, 1)
        assert {hook for hook, _ in plugin.done} == set(BACKEND_HOOKS) - {hook}


def test_a_backend_that_keeps_failing_is_suspended_and_closed(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = Scripted({"log_scalars": [None, *[ValueError("bad")] * (FAILURES - 1), None]})
    plugin.plans["log_text"] = iter([ValueError("bad")] * FAILURES)
    worker = start(plugin)
    for first in range(FAILURES + 1):
        submit(worker, block(first))
        flush(worker)
    assert not worker.delivery().suspended  # a success in between
    for _ in range(FAILURES):
        submit_text(worker)
    submit(worker, block(100))
    flush(worker)
    assert worker.delivery().suspended
    submit(worker, block(101))
    close(worker)
    assert plugin.steps() == [0, FAILURES]
    assert plugin.hooks().count("log_text") == FAILURES
    assert plugin.hooks()[-1] == "close_run"
    assert counts(worker) == (2, FAILURES - 1 + FAILURES + 2)
    (entry,) = [entry for entry in caplog.records if "suspended" in entry.getMessage()]
    assert "backend `mine`" in entry.getMessage()
    assert "`log_text`" in entry.getMessage()


@pytest.mark.parametrize("error", [OSError("full"), TransientError("busy"), TimeoutError("slow")])
@pytest.mark.parametrize("hook", BACKEND_HOOKS)
def test_a_transient_error_that_passes_loses_nothing(
    start: Any, caplog: pytest.LogCaptureFixture, hook: str, error: OSError
) -> None:
    failures = 1 if hook == "close_run" else 2  # who closes is not kept waiting
    plugin = Scripted({hook: [error] * failures})
    worker = start(plugin)
    submitted = submit_all_kinds(worker)
    flush(worker)
    close(worker)
    assert counts(worker) == (submitted, 0)
    assert worker.delivery().error == f"{type(error).__name__}: {error}"
    tries = [argument for called, argument, _ in plugin.calls if called == hook]
    assert len(tries) > failures
    assert all(argument is tries[0] for argument in tries[:failures])  # the same records again
    done = [called for called, _ in plugin.done if called != "flush"]
    assert done == [called for called in BACKEND_HOOKS if called != "flush"]
    assert caplog.records == []


def test_a_transient_error_that_never_passes_suspends_at_once(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = Scripted({"log_scalars": [OSError(28, "No space left on device")] * 9})
    worker = start(plugin)
    submit(worker, block(0, 4))
    flush(worker)
    submit(worker, block(4))
    close(worker)
    assert plugin.hooks() == ["open_run", *["log_scalars"] * 3, "close_run"]
    assert counts(worker) == (0, 5)
    delivery = worker.delivery()
    assert delivery.suspended
    assert delivery.error == "OSError: [Errno 28] No space left on device"
    failed, suspended = (entry.getMessage() for entry in caplog.records)
    assert "No space left on device" in failed
    assert "4 record(s)" in failed
    assert "is suspended" in suspended


@pytest.mark.parametrize("error", [ValueError("bad"), OSError("refused")])
def test_a_backend_that_can_not_open_is_never_called_again(start: Any, error: Exception) -> None:
    plugin = Scripted({"open_run": [error] * 9})
    worker = start(plugin)
    submitted = submit_all_kinds(worker)
    flush(worker)
    close(worker)
    assert set(plugin.hooks()) == {"open_run"}
    assert counts(worker) == (0, submitted)


def test_close_cuts_a_pause_short_and_tries_once_more(start: Any) -> None:
    plugin = Scripted({"log_scalars": [OSError("refused")] * 9})
    worker = start(plugin, retry_seconds=(3600.0, 3600.0))
    submit(worker, block(0))
    assert plugin.begun["log_scalars"].acquire(timeout=LONG)
    close(worker)
    assert plugin.hooks() == ["open_run", "log_scalars", "log_scalars", "close_run"]
    assert counts(worker) == (0, 1)


def test_a_call_made_while_closing_is_tried_twice(start: Any) -> None:
    held = threading.Event()
    plugin = Scripted(
        {"open_run": [held], "log_scalars": [OSError("reset")], "close_run": [OSError("reset")]}
    )
    worker = start(plugin, retry_seconds=(3600.0, 3600.0))
    submit(worker, block(0))
    worker.start_close("finished")
    held.set()
    assert worker.join(LONG)
    assert counts(worker) == (1, 0)
    assert plugin.done[-1] == ("close_run", "finished")


@pytest.mark.parametrize("hook", BACKEND_HOOKS)
def test_a_hook_that_hangs_stops_only_its_own_thread(start: Any, hook: str) -> None:
    held = threading.Event()
    plugin = Scripted({hook: [held]})
    worker = start(plugin)
    submitted = submit_all_kinds(worker)
    worker.start_close("finished")
    assert plugin.begun[hook].acquire(timeout=LONG)
    assert not worker.join(0.0)
    delivered, undelivered = counts(worker)
    assert delivered + undelivered == submitted
    assert delivered == plugin.flushed()
    assert delivered == submitted or hook != "close_run"
    submit(worker, block(100))  # never blocks, whatever hangs
    assert counts(worker) == (delivered, undelivered + 1)
    held.set()
    assert worker.join(LONG)
    assert counts(worker) == (submitted, 1)


def test_a_plugin_can_not_alter_the_records_that_it_is_given_again(start: Any) -> None:
    class Greedy:
        seen: Sequence[Scalars] = ()

        @hookimpl
        def log_scalars(self, records: Any) -> None:
            if not self.seen:
                with pytest.raises(TypeError, match="read-only"):
                    records[0].values.clear()
                with pytest.raises(AttributeError):
                    records.clear()
                self.seen = records
                raise OSError("again")
            self.seen = records

    plugin = Greedy()
    worker = start(plugin)
    submit(worker, records := block(0, 3))
    close(worker)
    assert plugin.seen == records
    assert counts(worker) == (3, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_handler_that_raises_leaves_nobody_waiting(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no logging today")

    plugin = Scripted({"log_scalars": [ValueError("bad")], "open_run": [held := threading.Event()]})
    worker = start(plugin)
    submit(worker, block(0))
    flushed = worker.start_flush()
    monkeypatch.setattr(logging.getLogger("metriplex"), "error", refuse)
    held.set()
    assert flushed.wait(LONG)
    submit(worker, block(1))
    flush(worker)
    close(worker)
    assert counts(worker) == (0, 2)


# ---- flush --------------------------------------------------------------------------------------


def test_the_first_batch_is_flushed_at_once_and_later_ones_wait(start: Any) -> None:
    plugin = Scripted(flush_secs=3600.0)
    worker = start(plugin)
    submit(worker, block(0))
    assert plugin.begun["flush"].acquire(timeout=LONG)
    for first in range(1, 20):
        submit(worker, block(first))
        assert plugin.begun["log_scalars"].acquire(timeout=LONG)
    assert plugin.hooks().count("flush") == 1
    flush(worker)
    assert plugin.hooks().count("flush") == 2


def test_batches_are_flushed_when_flush_secs_have_passed_and_when_idle(start: Any) -> None:
    plugin = Scripted(flush_secs=1e-3)
    worker = start(plugin)
    for first in range(5):
        submit(worker, block(first))
        assert plugin.begun["flush"].acquire(timeout=LONG)  # nothing else comes: idle
    held = threading.Event()
    plugin.plans["flush"] = iter([held])
    submit(worker, block(5))
    assert plugin.begun["flush"].acquire(timeout=LONG)
    for first in range(6, 9):
        submit(worker, block(first))
    held.set()
    assert plugin.begun["flush"].acquire(timeout=LONG)
    assert plugin.steps() == list(range(9))


def test_nothing_new_is_not_flushed_again(start: Any) -> None:
    plugin = Scripted(flush_secs=1e-6)
    worker = start(plugin)
    submit(worker, block(0))
    assert plugin.begun["flush"].acquire(timeout=LONG)
    assert not plugin.begun["flush"].acquire(timeout=0.05)


def test_a_flush_that_fails_is_made_again(start: Any) -> None:
    plugin = Scripted({"flush": [ValueError("bad")]}, flush_secs=1e-3)
    worker = start(plugin)
    submit(worker, block(0))
    for _ in range(2):
        assert plugin.begun["flush"].acquire(timeout=LONG)
    close(worker)
    assert counts(worker) == (1, 0)


def test_a_flush_that_can_not_be_made_any_more_is_not_waited_for(start: Any) -> None:
    held = threading.Event()
    plugin = Scripted({"close_run": [held]})
    worker = start(plugin)
    worker.start_close("finished")
    assert plugin.begun["close_run"].acquire(timeout=LONG)
    late = worker.start_flush()
    assert not late.is_set()
    held.set()
    assert late.wait(LONG)
    assert worker.join(LONG)
    assert worker.start_flush().is_set()


# ---- laws ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), max_size=12),
    plan=st.lists(st.sampled_from(["ok", "transient", "error"]), max_size=12),
    queue_size=st.integers(1, 20),
    burst=st.booleans(),
)
def test_every_record_is_delivered_once_and_in_order_or_counted(
    sizes: list[int], plan: list[str], queue_size: int, burst: bool
) -> None:
    held = threading.Event()
    actions = {"ok": None, "transient": OSError("again"), "error": ValueError("bad")}
    plugin = Scripted({"open_run": [held], "log_scalars": [actions[name] for name in plan]})
    backend = Backend("mine", plugin)
    worker = Worker(backend, RUN, queue_size=queue_size, retry_seconds=(0.0, 0.0))
    if not burst:
        held.set()
    submitted = 0
    for size in sizes:
        submit(worker, block(submitted, size))
        submitted += size
    held.set()
    close(worker)
    steps = plugin.steps()
    assert steps == sorted(set(steps))
    assert counts(worker) == (len(steps), submitted - len(steps))
    if not plan and sum(sizes) <= queue_size:
        assert steps == list(range(submitted))
