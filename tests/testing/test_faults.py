"""The fakes of `metriplex.testing.faults`, with the calls of a run."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from metriplex import MetricsCallback, Scalars
from metriplex.plugins.backends import Backend
from metriplex.plugins.hookspecs import BACKEND_HOOKS
from metriplex.testing import faults
from metriplex.testing.faults import FaultyBackend, Outage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LONG = 60.0


def log(backend: FaultyBackend, step: int = 1) -> Sequence[Scalars]:
    records = (Scalars(step, {"a": 0.5}),)
    backend.log_scalars(records)
    return records


def test_a_plan_is_followed_call_by_call_before_all_calls_succeed() -> None:
    backend = FaultyBackend({"log_scalars": [None, faults.raises(ValueError("no"))]})
    first = log(backend, 1)
    with pytest.raises(ValueError, match="no"):
        log(backend, 2)
    third = log(backend, 3)
    assert backend.records() == [*first, *third]
    assert backend.hooks() == 3 * ["log_scalars"]
    assert backend.calls[0][2] is threading.current_thread()


def test_one_fault_affects_every_call_of_its_hook_alone() -> None:
    backend = FaultyBackend({"flush": faults.out_of_memory()})
    for _ in range(3):
        with pytest.raises(MemoryError):
            backend.flush()
    backend.close_run("finished")
    assert backend.done == [("close_run", "finished")]


def test_the_faulty_backend_implements_every_hook() -> None:
    assert Backend("faulty", FaultyBackend()).hooks == set(BACKEND_HOOKS)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.disk_full(), OSError),
        (faults.exits(3), SystemExit),
        (faults.raises(KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["disk full", "exits", "raises"],
)
def test_faults_that_raise(fault: faults.Fault, error: type[BaseException]) -> None:
    with pytest.raises(error) as raised:
        log(FaultyBackend({"log_scalars": fault}))
    assert getattr(raised.value, "errno", errno.ENOSPC) == errno.ENOSPC
    assert getattr(raised.value, "code", 3) == 3


def test_a_call_that_hangs_or_is_slow_returns_in_time() -> None:
    release = threading.Event()
    backend = FaultyBackend({"log_scalars": [faults.slow(0.01), faults.hangs(release)]})
    log(backend)
    thread = threading.Thread(target=log, args=(backend,), daemon=True)
    thread.start()
    for _ in range(2):
        assert backend.begun["log_scalars"].acquire(timeout=LONG)
    assert len(backend.records()) == 1
    release.set()
    thread.join(LONG)
    assert len(backend.records()) == 2


def test_a_fault_can_end_the_process() -> None:
    program = "from metriplex.testing.faults import ends_the_process; ends_the_process(4)()"
    done = subprocess.run([sys.executable, "-c", f"{program}; print('here')"], check=False)
    assert done.returncode == 4


def test_records_of_an_outage_arrive_later(tmp_path: Path) -> None:
    outage = Outage()
    backend = FaultyBackend({"log_scalars": outage})
    with MetricsCallback("run", log_dir=tmp_path, backends=backend) as metrics:
        outage.begin()
        for step in range(5):
            metrics.log(step, {"a": 0.5})
        assert outage.refused_one.wait(LONG)
        outage.end()
    assert [record.step for record in backend.records()] == [0, 1, 2, 3, 4]
    assert [(d.delivered, d.undelivered) for d in metrics.deliveries()] == [(5, 0)]
