"""`OpenRuns`: the life cycle that all backends share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from metriplex import ClosedError, ConfigurationError, OpenRuns, RunInfo


def make_run(name: str = "walk") -> RunInfo:
    return RunInfo(id=f"id of {name}", name=name, directory=Path(name), start_time=0.0)


def make_value(run: RunInfo) -> list[str]:
    return [run.name]


def fail(value: object) -> NoReturn:
    raise OSError("the disk is full")


def test_a_run_that_is_opened_twice_keeps_its_value() -> None:
    runs, run = OpenRuns[list[str]](), make_run()
    first = runs.open(run, make_value)
    assert first == ["walk"]
    assert runs.open(run, make_value) is first
    assert runs.find(run) is first


def test_a_run_that_could_not_be_opened_is_opened_by_the_next_call() -> None:
    runs, run = OpenRuns[list[str]](), make_run()
    with pytest.raises(OSError, match="full"):
        runs.open(run, fail)
    with pytest.raises(ClosedError, match="run `walk` is not open: call `open_run` before any"):
        runs.find(run)
    assert runs.open(run, make_value) == ["walk"]


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_a_run_that_is_closed_twice_is_ended_once(status: str) -> None:
    runs, run, ended = OpenRuns[list[str]](), make_run(), list[list[str]]()
    value = runs.open(run, make_value)
    assert runs.close(run, status, ended.append) is value
    assert runs.close(run, "failed", ended.append) is None
    assert ended == [value]


def test_a_run_is_closed_without_an_end() -> None:
    runs, run = OpenRuns[list[str]](), make_run()
    value = runs.open(run, make_value)
    assert runs.close(run, "failed") is value
    assert runs.close(run, "failed") is None
    with pytest.raises(ClosedError, match="run `walk` was closed"):
        runs.find(run)


def test_a_run_that_could_not_be_closed_stays_open() -> None:
    runs, run, ended = OpenRuns[list[str]](), make_run(), list[list[str]]()
    value = runs.open(run, make_value)
    with pytest.raises(OSError, match="full"):
        runs.close(run, "finished", fail)
    assert runs.find(run) is value
    runs.close(run, "finished", ended.append)
    assert ended == [value]


def test_use_after_close_is_an_error() -> None:
    runs, run = OpenRuns[list[str]](), make_run()
    runs.open(run, make_value)
    runs.close(run, "finished")
    message = "run `walk` was closed: log before `close`, or start a new run to log more"
    for call in (lambda: runs.find(run), lambda: runs.open(run, make_value)):
        with pytest.raises(ClosedError, match=message):
            call()


def test_use_before_open_is_an_error() -> None:
    runs, run = OpenRuns[list[str]](), make_run()
    for call in (lambda: runs.find(run), lambda: runs.close(run, "finished")):
        with pytest.raises(ClosedError, match="run `walk` is not open: call `open_run` before any"):
            call()
    assert runs.open(run, make_value) == ["walk"]


def test_an_unknown_status_closes_nothing() -> None:
    runs, run = OpenRuns[list[str]](), make_run()
    value = runs.open(run, make_value)
    with pytest.raises(ConfigurationError, match=r"`status` must be one of \('finished', .*'done'"):
        runs.close(run, "done")
    assert runs.find(run) is value


def test_a_value_may_be_false() -> None:
    runs, run, made, ended = OpenRuns[None](), make_run(), list[str](), list[None]()
    for _ in range(2):
        runs.open(run, lambda run: made.append(run.id))
    runs.close(run, "finished", ended.append)
    assert (made, ended) == (["id of walk"], [None])


def test_two_runs_of_one_object_are_apart() -> None:
    runs, walk, run = OpenRuns[list[str]](), make_run("walk"), make_run("run")
    assert [runs.open(one, make_value) for one in (walk, run)] == [["walk"], ["run"]]
    runs.close(walk, "finished")
    assert runs.find(run) == ["run"]
    with pytest.raises(ClosedError, match="run `walk` was closed"):
        runs.find(walk)


def test_two_threads_open_a_run_once_and_close_it_once() -> None:
    runs, run, made, ended = OpenRuns[list[str]](), make_run(), list[str](), list[list[str]]()
    together = threading.Barrier(2)

    def make(run: RunInfo) -> list[str]:
        time.sleep(0.05)
        made.append(run.id)
        return [run.name]

    def end(value: list[str]) -> None:
        time.sleep(0.05)
        ended.append(value)

    def live() -> list[str]:
        together.wait()
        value = runs.open(run, make)
        together.wait()
        runs.close(run, "finished", end)
        return value

    with ThreadPoolExecutor(2) as pool:
        first, second = (future.result() for future in [pool.submit(live) for _ in range(2)])
    assert first is second
    assert made == ["id of walk"]
    assert ended == [first]


def test_a_run_does_not_wait_for_another() -> None:
    runs, slow, quick = OpenRuns[list[str]](), make_run("slow"), make_run("quick")
    opening, opened = threading.Event(), threading.Event()

    def make(run: RunInfo) -> list[str]:
        opening.set()
        assert opened.wait(10)
        return [run.name]

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(runs.open, slow, make)
        assert opening.wait(10)
        runs.open(quick, make_value)
        runs.close(quick, "finished")
        opened.set()
        assert future.result() == ["slow"]
