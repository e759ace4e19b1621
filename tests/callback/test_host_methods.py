"""The host methods of a callback: opening, `with`, flushing and closing the run."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpreter
from memory import Memory, logging_to_memory
from metriplex import ClosedError, MetricsCallback, MetriplexError, NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ProgramError(Exception):
    """An error of a user's program."""


def test_leaving_the_block_closes_the_run(tmp_path: Path) -> None:
    memory = Memory()
    with MetricsCallback("a", log_dir=tmp_path, backends=memory) as metrics:
        metrics.log(1, {"x": 1})
        assert memory.status is None
    assert (memory.status, memory.steps()) == ("finished", [1])
    metrics.close()
    assert memory.calls.count("close_run") == 1


def test_an_exception_passes_and_is_the_run_s_status(tmp_path: Path) -> None:
    memory = Memory()
    with (  # noqa: PT012 - the block is what is tested
        pytest.raises(ProgramError, match="mine"),
        MetricsCallback(log_dir=tmp_path, backends=memory) as metrics,
    ):
        metrics.log(1, {"x": 1})
        raise ProgramError("mine")
    assert (memory.status, memory.steps()) == ("failed", [1])


def test_ctrl_c_is_the_run_s_status(tmp_path: Path) -> None:
    memory = Memory()
    with pytest.raises(KeyboardInterrupt), MetricsCallback(log_dir=tmp_path, backends=memory):
        raise KeyboardInterrupt
    assert memory.status == "interrupted"


def test_ctrl_c_in_a_host_function_is_ctrl_c_again(tmp_path: Path) -> None:
    memory = Memory()

    def interrupt(x: np.ndarray) -> None:
        raise KeyboardInterrupt

    with (  # noqa: PT012 - the block is what is tested
        pytest.raises(KeyboardInterrupt),
        MetricsCallback(log_dir=tmp_path, backends=memory) as metrics,
    ):
        metrics.log(1, {"x": 1})
        jax.jit(lambda x: jax.debug.callback(interrupt, x))(1.0)
        jax.effects_barrier()
    assert (memory.status, memory.steps()) == ("interrupted", [1])


def test_the_program_s_error_is_raised_by_close(tmp_path: Path) -> None:
    memory = Memory()

    def fail(x: np.ndarray) -> None:
        raise ValueError("from the program")

    with (  # noqa: PT012 - the block is what is tested
        pytest.raises(jax.errors.JaxRuntimeError, match="from the program"),
        MetricsCallback(log_dir=tmp_path, backends=memory) as metrics,
    ):
        metrics.log(1, {"x": 1})
        jax.jit(lambda x: jax.debug.callback(fail, x))(1.0)
    assert memory.steps() == [1]
    assert memory.calls[-1] == "close_run"


def test_a_rejected_value_ends_nothing_and_is_summed_up_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory()
    with MetricsCallback("a", log_dir=tmp_path, backends=memory) as metrics:
        for step in range(3):
            metrics.log(step, {"train": {"loss": jnp.nan, "other": 1.0}})
        metrics.flush()
    assert [(entry.levelno, entry.getMessage()) for entry in caplog.records] == [
        (logging.ERROR, "run `a`: `train/loss` is nan at step 0; the value reaches no backend"),
        (
            logging.ERROR,
            "run `a`: 3 value(s) that are NaN or infinite were rejected, of `train/loss`",
        ),
    ]
    assert memory.values("train/other") == [1.0] * 3
    assert memory.values("train/loss") == []


def test_a_rejected_value_is_raised_at_the_end_if_that_is_wanted(tmp_path: Path) -> None:
    memory = Memory()
    with (
        pytest.raises(NonFiniteError, match=r"`train/loss` is nan at step 2"),
        MetricsCallback(log_dir=tmp_path, backends=memory, nonfinite="raise") as metrics,
    ):
        metrics.log(2, {"train": {"loss": jnp.nan, "other": 1.0}})
    assert memory.values("train/other") == [1.0]
    assert memory.values("train/loss") == []


def test_the_user_s_own_error_is_not_hidden_by_a_rejected_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (  # noqa: PT012 - the block is what is tested
        caplog.at_level(logging.ERROR, "metriplex"),
        pytest.raises(ProgramError),
        MetricsCallback(log_dir=tmp_path, backends=[]) as metrics,
    ):
        metrics.log(2, {"loss": jnp.inf})
        raise ProgramError
    assert "`loss` is inf at step 2" in caplog.text


def test_flush_makes_everything_arrive(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        for turn in range(3):
            jax.jit(lambda m: m.on_iteration(m.init(1), training_log={"x": 1}))(metrics)
            metrics.flush()
            assert len(memory.records) == turn + 1
            assert memory.calls[-1] == "flush"


def test_close_from_another_thread_keeps_what_was_logged(tmp_path: Path) -> None:
    memory = Memory()
    metrics = MetricsCallback(log_dir=tmp_path, backends=memory)
    metrics.log(1, {"x": 1})
    thread = threading.Thread(target=metrics.close)
    thread.start()
    thread.join()
    metrics.close()
    assert memory.steps() == [1]
    assert memory.calls.count("close_run") == 1


def test_a_copy_knows_the_run_as_long_as_it_is_there(tmp_path: Path) -> None:
    metrics = MetricsCallback("a", log_dir=tmp_path, backends=[])
    other = jax.tree.map(lambda leaf: leaf, metrics)
    assert other.run is metrics.run
    other.close()
    with pytest.raises(ClosedError, match="run `a` is closed"):
        metrics.flush()
    other.close()
    handle = int(other._handle[0])
    del metrics
    with pytest.raises(ClosedError, match=f"run with handle {handle} is closed: construct a new"):
        other.flush()
    other.close()


def test_a_copied_train_state_logs_to_the_same_run(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        for step, one in enumerate([copy.copy(metrics), *copy.deepcopy([metrics])]):
            one.log(step, {"x": 1})
    assert memory.steps() == [0, 1]


def test_it_is_no_part_of_a_pickled_checkpoint(tmp_path: Path) -> None:
    with (
        logging_to_memory(tmp_path) as (metrics, _),
        pytest.raises(MetriplexError, match="can't be pickled: leave it out"),
    ):
        pickle.dumps(metrics)


def test_two_runs_at_once_are_two(tmp_path: Path) -> None:
    with (
        logging_to_memory(tmp_path) as (first, one),
        logging_to_memory(tmp_path) as (second, two),
    ):
        assert first.directory.name == "run"
        assert second.directory.name == "run_2"
        for step, metrics in enumerate((first, second, first)):
            metrics.log(step, {"x": 1})
    assert (one.steps(), two.steps()) == ([0, 2], [1])


def test_a_run_that_nobody_closes_is_closed_at_exit(tmp_path: Path) -> None:
    program = f"""
        import jax, metriplex
        from memory import Memory
        class Told(Memory):
            @metriplex.hookimpl
            def close_run(self, status):
                print(status, self.steps(), flush=True)
        metrics = metriplex.MetricsCallback(log_dir={str(tmp_path)!r}, backends=Told())
        jax.jit(lambda m: m.on_iteration(m.init(1), training_log={{"x": 1}}))(metrics)
    """
    result = interpreter.run(program)
    assert (result.stdout, result.stderr) == ("finished [0]\n", "")


HOST_METHODS: dict[str, Callable[[MetricsCallback], object]] = {
    "flush": lambda m: m.flush(),
    "close": lambda m: m.close(),
    "log_hparams": lambda m: m.log_hparams({"x": 1}),
    "log_text": lambda m: m.log_text("a", "b"),
    "log_video": lambda m: m.log_video("a", np.zeros((1, 2, 2, 3), np.uint8), fps=1),
    "log_image": lambda m: m.log_image("a", np.zeros((2, 2, 3), np.uint8)),
    "log_histogram": lambda m: m.log_histogram("a", [1.0, 2.0]),
    "log_artifact": lambda m: m.log_artifact(__file__),
    "with": lambda m: m.__enter__(),
}


@pytest.mark.parametrize("name", HOST_METHODS)
def test_what_belongs_to_the_host_is_refused_in_compiled_code(tmp_path: Path, name: str) -> None:
    method = HOST_METHODS[name]
    expected = f"`{name}` belongs to the host.*call it outside"
    with logging_to_memory(tmp_path) as (metrics, memory):
        with pytest.raises(MetriplexError, match=expected):  # passed as an argument
            jax.jit(lambda m: (method(m), 0)[1])(metrics)
        with pytest.raises(MetriplexError, match=expected):  # closed over
            jax.jit(lambda x: (method(metrics), x)[1])(1.0)
    assert memory.calls == ["open_run", "flush", "close_run"]


def test_the_run_of_a_traced_callback_is_not_known(tmp_path: Path) -> None:
    with (
        logging_to_memory(tmp_path) as (metrics, _),
        pytest.raises(MetriplexError, match="belongs to the host was called inside"),
    ):
        jax.jit(lambda m: len(m.deliveries()))(metrics)
