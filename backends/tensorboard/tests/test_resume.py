"""Continued runs have one value a step, also if the clock was set back."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboardX import SummaryWriter

from metriplex import Scalars
from metriplex_tensorboard import TensorBoardBackend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["resume_step", "purge_step"])
def resumed(request: pytest.FixtureRequest, make_run):
    """Open the second half of a run at a step, by `resume_step` or by an option."""

    def open_at(step: int, directory: Path):
        if request.param == "resume_step":
            return TensorBoardBackend(), make_run(directory, resume_step=step)
        return TensorBoardBackend(purge_step=step), make_run(directory)

    return open_at


def test_what_was_logged_again_supersedes(make_run, accumulate, resumed) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(step, {"a": 1.0}) for step in range(0, 100, 10)])
    backend.log_scalars(run, [Scalars(step, {"lane": 1.0}, lane=0) for step in range(10)])
    backend.flush(run)

    backend, again = resumed(50, run.directory)
    backend.open_run(again)
    backend.log_scalars(again, [Scalars(step, {"a": 2.0}) for step in range(50, 80, 10)])
    backend.log_scalars(again, [Scalars(60, {"lane": 2.0}, lane=0)])
    backend.close_run(again, "finished")

    read = accumulate(run.directory)
    assert [(event.step, event.value) for event in read.Scalars("a")] == [
        (step, 1.0 if step < 50 else 2.0) for step in range(0, 80, 10)
    ]
    lane = accumulate(run.directory / "seed_000").Scalars("lane")
    assert [event.step for event in lane] == [*range(10), 60]


def test_old_points_go_before_new_ones_come(make_run, accumulate, resumed) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(step, {"a": 1.0}) for step in range(10)])
    backend.close_run(run, "interrupted")

    backend, again = resumed(4, run.directory)
    backend.open_run(again)

    assert [event.step for event in accumulate(run.directory).Scalars("a")] == [0, 1, 2, 3]


def test_start_of_session_is_what_tensorboardx_writes(tmp_path, read_events, resumed) -> None:
    backend, run = resumed(2**40, tmp_path / "ours")
    backend.open_run(run)
    SummaryWriter(str(tmp_path / "theirs"), purge_step=2**40).close()

    version, start, restart = read_events(tmp_path / "ours")
    expected = read_events(tmp_path / "theirs")[-1]

    assert version.file_version == "brain.Event:2"
    assert start == restart
    assert (start.step, start.session_log) == (expected.step, expected.session_log)


def test_the_loader_of_the_server_purges_too(make_run, resumed) -> None:
    """TensorBoard's Python server has a second accumulator, which ignores the first start."""
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(step, {"a": 1.0}) for step in range(10)])
    backend.close_run(run, "interrupted")
    for step in (6, 3):
        backend, again = resumed(step, run.directory)
        backend.open_run(again)
        backend.log_scalars(again, [Scalars(step, {"a": 2.0}), Scalars(step + 1, {"a": 2.0})])
        backend.close_run(again, "interrupted")

    accumulator = plugin_event_accumulator.EventAccumulator(str(run.directory))
    accumulator.Reload()

    assert [event.step for event in accumulator.Tensors("a")] == [0, 1, 2, 3, 4]


def test_new_run_purges_nothing(make_run, read_events) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)

    assert not any(event.HasField("session_log") for event in read_events(run.directory))


@pytest.mark.parametrize(
    "name",
    [
        "events.out.tfevents.9999999990.host",
        "events.out.tfevents.9999999990.123456789.host.1",
        "events.out.tfevents.9999999990.999999999.host.1",
        "events.out.tfevents.1000000000.host",
    ],
)
def test_file_is_named_after_all_others_even_if_the_clock_went_back(make_run, name: str) -> None:
    run = make_run()
    (run.directory / name).touch()
    by_time = [run.directory / name]
    for _ in range(3):
        run = make_run(run.directory)
        TensorBoardBackend(filename_suffix=".x").open_run(run)
        by_time += {*run.directory.iterdir()} - {*by_time}

    by_name = sorted(run.directory.iterdir())
    assert len(by_name) == 4
    assert by_name == by_time
    assert all(path.name.endswith(".x") for path in by_name[1:])


def test_run_that_was_killed_is_continued(make_run, accumulate) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from metriplex import RunInfo, Scalars
from metriplex_tensorboard import TensorBoardBackend
run = RunInfo(id="0", name="run", directory=Path(sys.argv[1]), start_time=0.0)
backend = TensorBoardBackend()
backend.open_run(run)
backend.log_scalars(run, [Scalars(step, {"a": 1.0}) for step in range(70)])
backend.flush(run)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = make_run(resume_step=40)
    subprocess.run([sys.executable, "-c", code, str(run.directory)], check=False)

    backend = TensorBoardBackend()
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(step, {"a": 2.0}) for step in range(40, 100)])
    backend.close_run(run, "finished")

    events = accumulate(run.directory).Scalars("a")
    assert [event.step for event in events] == list(range(100))
    assert [event.value for event in events] == [1.0] * 40 + [2.0] * 60
