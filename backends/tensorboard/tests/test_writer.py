"""The `SummaryWriter` that `TensorBoardBackend.writer` returns."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from metriplex import ClosedError, Scalars
from metriplex_tensorboard import TensorBoardBackend


def test_writer_is_a_summary_writer_on_the_run(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    writer = backend.writer(run)
    assert isinstance(writer, SummaryWriter)
    assert backend.writer(run) is writer

    writer.add_histogram("weights", np.arange(10.0), 2**40)
    writer.add_image("picture", np.zeros((3, 4, 5), np.uint8), 1)
    writer.add_scalar("extra", 1.5, 7)
    backend.log_scalars(run, [Scalars(8, {"train/loss": 2.5})])
    backend.close_run(run, "finished")

    read = accumulate(run.directory)
    assert len(list(run.directory.iterdir())) == 1
    assert read.Tags()["histograms"] == ["weights"]
    assert read.Tags()["images"] == ["picture"]
    assert [(event.step, event.value) for event in read.Scalars("extra")] == [(7, 1.5)]
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(8, 2.5)]


def test_flush_of_the_writer_is_durable(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    writer = backend.writer(run)

    for step in range(1000):
        writer.add_scalar("a", step, step)
    writer.flush()

    assert len(accumulate(run.directory).Scalars("a")) == 1000


def test_writer_may_be_asked_for_before_the_run_is_open(make_run, accumulate) -> None:
    """The user's thread need not wait for the worker thread, which opens the run."""
    backend, run = TensorBoardBackend(), make_run()
    backend.writer(run).add_scalar("a", 1.0, 1)

    backend.open_run(run)
    backend.close_run(run, "finished")

    assert [event.step for event in accumulate(run.directory).Scalars("a")] == [1]


def test_writer_is_closed_with_the_run(make_run, read_events) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    writer = backend.writer(run)
    backend.close_run(run, "finished")
    before = read_events(run.directory)

    with pytest.raises(ClosedError, match="were closed with their run"):
        writer.add_scalar("a", 1.0, 1)
    writer.flush()
    writer.close()

    assert read_events(run.directory) == before


def test_closed_writer_leaves_the_run_open(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    with backend.writer(run) as writer:
        writer.add_scalar("a", 1.0, 1)
    assert len(accumulate(run.directory).Scalars("a")) == 1

    backend.log_scalars(run, [Scalars(2, {"a": 2.0})])
    backend.writer(run).add_scalar("a", 3.0, 3)
    backend.close_run(run, "finished")

    assert [event.value for event in accumulate(run.directory).Scalars("a")] == [1.0, 2.0, 3.0]


def test_writer_and_worker_write_at_once(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    writer = backend.writer(run)

    def add() -> None:
        for step in range(1000):
            writer.add_scalar("theirs", step, step)

    thread = threading.Thread(target=add)
    thread.start()
    for step in range(1000):
        backend.log_scalars(run, [Scalars(step, {"ours": step})])
        if step % 100 == 0:
            backend.flush(run)
    thread.join()
    backend.close_run(run, "finished")

    read = accumulate(run.directory)
    for tag in ("ours", "theirs"):
        assert [event.value for event in read.Scalars(tag)] == list(range(1000))
