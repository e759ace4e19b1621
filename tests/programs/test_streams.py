"""The records of one compiled program: buffered or not, for many runs, run again, with NaNs."""

from __future__ import annotations

import logging
import tempfile
import threading
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from members import some_long
from memory import Memory, host_calls, logging_to_memory, plain
from metriplex import MetricsCallback, MetricsState, NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ITERATIONS = 7


def train(
    metrics: MetricsCallback, start: Any, *, frame: bool = True, length: int = ITERATIONS
) -> jax.Array:
    """Logs `loss` = `start`, `start` + 1, ..., except where `start` + index is a multiple of 4."""
    state = metrics.init(2)
    if frame:
        state = metrics.on_training_start(state)

    def iterate(state: MetricsState, index: jax.Array) -> tuple[MetricsState, jax.Array]:
        loss = start + index
        state = metrics.on_step(state, jnp.ones((3, 2)), jnp.arange(3)[:, None] == jnp.arange(2))
        state = metrics.on_iteration(state, training_log={"loss": loss}, where=loss % 4 != 0)
        return state, loss

    state, losses = lax.scan(iterate, state, jnp.arange(length))
    metrics.on_training_end(state)
    return losses


def logged(start: int, length: int = ITERATIONS) -> list[int]:
    return [loss for loss in range(start, start + length) if loss % 4]


# ---- the buffer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vmapped", [False, True], ids=["", "vmap"])
@pytest.mark.parametrize("buffer", some_long([1, 2, 3, 7, 100], 3))
def test_a_buffer_changes_only_how_often_the_host_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int, vmapped: bool
) -> None:
    expected = unbuffered(vmapped=vmapped)
    blocks = host_calls(monkeypatch)
    records = train_buffered(tmp_path, buffer, vmapped=vmapped)
    assert records == expected
    for lane in range(3) if vmapped else [None]:
        losses = [values["train/loss"] for at, _, _, values in records if at == lane]
        assert losses == logged(1 if lane is None else lane)
    if not vmapped:
        assert len(blocks) == 3 + -(-(len(logged(1)) - 1) // buffer)  # the first row goes at once


def train_buffered(log_dir: object, buffer: int, *, vmapped: bool) -> list[Any]:
    starts = jnp.array([0, 1, 2]) if vmapped else jnp.int32(1)
    with logging_to_memory(log_dir, buffer=buffer) as (metrics, memory):
        program = partial(train, metrics)
        jax.jit(jax.vmap(program) if vmapped else program)(starts)
    return plain(memory.records)


@cache
def unbuffered(*, vmapped: bool) -> list[Any]:
    with tempfile.TemporaryDirectory() as log_dir:
        return train_buffered(log_dir, 0, vmapped=vmapped)


@pytest.mark.parametrize("buffer", [0, 3])
def test_shapes_of_the_state_never_change_and_it_can_be_donated(
    tmp_path: Path, buffer: int
) -> None:
    with logging_to_memory(tmp_path, buffer=buffer, episode_stats=True) as (metrics, memory):
        state = metrics.init(2)
        shapes = jax.eval_shape(lambda: metrics.init(2))

        def iterate(state: MetricsState, reward: jax.Array) -> MetricsState:
            state = metrics.on_step(state, reward, reward > 1)
            return metrics.on_iteration(state, training_log={"reward": reward[0]})

        assert jax.eval_shape(iterate, state, jnp.ones(2)) == shapes
        assert jax.eval_shape(metrics.on_training_start, state) == shapes
        assert jax.eval_shape(metrics.on_training_end, state) == shapes
        step = jax.jit(iterate, donate_argnums=0)
        for index in range(5):
            old = state
            state = step(state, jnp.full(2, index, jnp.float32))
            assert old.episodes.return_ema.is_deleted()
        jax.jit(metrics.on_training_end, donate_argnums=0)(state)
        assert step._cache_size() == 1  # ty: ignore[missing-attribute] - of compiled functions
    assert memory.values("train/reward") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert memory.steps() == [2, 4, 6, 8, 10]


def test_a_lane_that_was_given_is_not_donated_with_the_state(tmp_path: Path) -> None:
    lane = jnp.int32(3)
    with logging_to_memory(tmp_path) as (metrics, memory):
        jax.jit(metrics.on_iteration, donate_argnums=0)(metrics.init(1, lane=lane))
        log = {"a": 1}
        jax.jit(lambda s: metrics.on_iteration(s, training_log=log))(metrics.init(1, lane=lane))
    assert int(lane) == 3
    assert memory.lanes == [3]


# ---- many runs ----------------------------------------------------------------------------------


def test_one_trace_serves_many_runs_and_they_never_mix(tmp_path: Path) -> None:
    traces = []

    @jax.jit
    def program(metrics: MetricsCallback, start: jax.Array) -> jax.Array:
        traces.append(metrics)
        return train(metrics, start)

    first, second = Memory(), Memory()
    with (
        MetricsCallback("run", log_dir=str(tmp_path), backends=first) as one,
        MetricsCallback("run", log_dir=str(tmp_path), backends=second) as other,
    ):
        for metrics, start in ((one, 0), (other, 100), (one, 10), (other, 110)):
            program(metrics, jnp.int32(start))
    with logging_to_memory(tmp_path) as (metrics, third):
        program(metrics, jnp.int32(200))
    assert len(traces) == 1
    assert first.values("train/loss") == logged(0) + logged(10)
    assert second.values("train/loss") == logged(100) + logged(110)
    assert third.values("train/loss") == logged(200)


def test_runs_of_several_threads_never_mix(tmp_path: Path) -> None:
    program = jax.jit(partial(train, length=50))
    memories = [Memory() for _ in range(4)]
    ready = threading.Barrier(len(memories))

    def work(memory: Memory, number: int) -> None:
        with MetricsCallback("run", log_dir=str(tmp_path), backends=memory) as metrics:
            ready.wait()
            for part in range(3):
                program(metrics, jnp.int32(1000 * number + 100 * part))

    threads = [threading.Thread(target=work, args=(m, i)) for i, m in enumerate(memories)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, memory in enumerate(memories):
        begin = [1000 * number + 100 * part for part in range(3)]
        assert memory.values("train/loss") == [
            loss for start in begin for loss in logged(start, 50)
        ]
        assert memory.status == "finished"


def test_a_lane_can_be_a_run_of_its_own(tmp_path: Path) -> None:
    memories = [Memory(), Memory()]
    metrics = [MetricsCallback("run", log_dir=str(tmp_path), backends=m) for m in memories]
    stacked = jax.tree.map(lambda *handles: jnp.stack(handles), *metrics)
    jax.jit(jax.vmap(train))(stacked, jnp.array([0, 10]))
    for one in metrics:
        one.close()
    assert memories[0].values("train/loss", 0) == logged(0)
    assert memories[1].values("train/loss", 1) == logged(10)
    assert [memory.lanes for memory in memories] == [[0], [1]]


@pytest.mark.parametrize("vmapped", [False, True], ids=["", "vmap"])
@pytest.mark.parametrize("frame", [False, True], ids=["bare", "framed"])
def test_a_second_call_of_the_program_in_one_run_loses_and_repeats_nothing(
    tmp_path: Path, frame: bool, vmapped: bool
) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program = partial(train, metrics, frame=frame)
        program = jax.jit(jax.vmap(program) if vmapped else program)
        starts = [0, 1] if frame else [0, 20]  # framed also with the same content twice
        for start in [*starts, 1] if frame else starts:
            program(jnp.array([start]) if vmapped else jnp.int32(start))
    lane = 0 if vmapped else None
    expected = [*logged(starts[0]), *logged(starts[1]), *(logged(1) if frame else [])]
    assert memory.values("train/loss", lane) == expected


def test_a_second_call_with_the_same_content_is_new_after_a_flush(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program = jax.jit(partial(train, metrics, frame=False))
        for _ in range(2):
            program(jnp.int32(0))
            metrics.flush()
    assert memory.values("train/loss") == 2 * logged(0)


def test_rows_for_a_closed_run_are_reported_and_reach_no_other_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Memory()
    old = MetricsCallback("old", log_dir=str(tmp_path), backends=first)
    program = jax.jit(lambda start: train(old, start))  # closes over it
    program(jnp.int32(0))
    old.close()
    with logging_to_memory(tmp_path) as (metrics, second):
        program(jnp.int32(50))
        jax.jit(train)(metrics, jnp.int32(100))
    assert first.values("train/loss") == logged(0)
    assert second.values("train/loss") == logged(100)
    messages = [record.getMessage() for record in caplog.records]
    for message in messages:
        assert message.startswith("run `old` is closed, yet its program goes on logging: ")
    assert len(messages) <= 3  # of seven blocks, however many of them were read together


# ---- NaN and infinity ---------------------------------------------------------------------------


def diverge(metrics: MetricsCallback, bad_at: Any) -> Any:
    state = metrics.on_training_start(metrics.init(1))

    def iterate(state: MetricsState, index: jax.Array) -> tuple[MetricsState, None]:
        state = metrics.on_step(state, jnp.ones(1), jnp.zeros(1))
        log = {"index": index, "loss": jnp.where(index == bad_at, jnp.nan, 1.0)}
        return metrics.on_iteration(state, training_log=log, opt_state=()), None

    return metrics.on_training_end(lax.scan(iterate, state, jnp.arange(5))[0]).iteration


@pytest.mark.parametrize("buffer", [0, 3])
def test_a_nan_is_an_error_at_the_end_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, buffer: int
) -> None:
    memory = Memory()
    with (
        pytest.raises(NonFiniteError, match=r"`train/loss` is nan at step 3, lane 1"),
        logging_to_memory(tmp_path, memory, buffer=buffer, nonfinite="raise") as (metrics, _),
    ):
        jax.jit(jax.vmap(partial(diverge, metrics)))(jnp.array([9, 2]))
    assert memory.values("train/index", 1) == [0, 1, 2, 3, 4]
    assert memory.values("train/loss", 0) == [1.0] * 5
    assert memory.values("train/loss", 1) == [1.0] * 4
    assert np.isnan(memory.values("train/learning_rate", 1)).all()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.getMessage() for error in errors] == [
        "run `run`: `train/loss` is nan at step 3, lane 1; the value reaches no backend"
    ]


@pytest.mark.parametrize("nonfinite", ["warn", "keep"])
def test_a_nan_may_be_left_out_or_kept(tmp_path: Path, nonfinite: str) -> None:
    with logging_to_memory(tmp_path, nonfinite=nonfinite) as (metrics, memory):
        assert int(jax.jit(diverge)(metrics, 2)) == 5
    assert memory.values("train/index") == [0, 1, 2, 3, 4]
    losses = memory.values("train/loss")
    np.testing.assert_array_equal(losses, [1, 1, *[np.nan] * (nonfinite == "keep"), 1, 1])


@pytest.mark.parametrize("buffer", some_long([0, 2, 3, 100], 0, 3))
@pytest.mark.parametrize("vmapped", [False, True], ids=["", "vmap"])
def test_abort_stops_the_program_and_keeps_every_row_so_far(
    tmp_path: Path, buffer: int, vmapped: bool
) -> None:
    program = jax.jit(jax.vmap(diverge, (None, 0)) if vmapped else diverge)
    bad_at = jnp.array([9, 2]) if vmapped else jnp.int32(2)
    where = ", lane 1" if vmapped else ""
    memory = Memory()
    with (
        pytest.raises(NonFiniteError, match=rf"`train/loss` is nan at step 3{where};"),
        logging_to_memory(tmp_path, memory, buffer=buffer, nonfinite="abort") as (metrics, _),
    ):
        jax.block_until_ready(program(metrics, bad_at))
    for lane in [0, 1] if vmapped else [None]:
        assert memory.values("train/index", lane) == [0, 1, 2]
        losses = [1.0, 1.0, 1.0] if lane == 0 else [1.0, 1.0]
        assert memory.values("train/loss", lane) == losses
    assert memory.status == "failed"


def test_abort_judges_what_is_logged_and_by_its_exact_value(tmp_path: Path) -> None:
    logs: list[Callable[[], dict[str, Any]]] = [
        lambda: {"huge": 1e300, "learning_rate": jnp.nan, "int": 2**40},
        lambda: {"infinite": jnp.bfloat16(jnp.inf)},
    ]
    with logging_to_memory(tmp_path, nonfinite="abort") as (metrics, memory):
        state = jax.jit(
            lambda s: metrics.on_iteration(s, training_log=logs[0](), where=s.iteration < 9)
        )(metrics.init(1))
        skipped = jax.jit(
            lambda s: metrics.on_iteration(s, training_log=logs[1](), where=s.iteration < 1)
        )(state)
        assert int(skipped.iteration) == 2
    assert memory.values("train/huge") == [1e300]
    assert memory.values("train/infinite") == []
