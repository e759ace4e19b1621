"""Each execution of a program logs each of its records once, whatever runs beside it."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest

from memory import logging_to_memory

if TYPE_CHECKING:
    from pathlib import Path

    from metriplex import MetricsCallback, MetricsState

SIZES = (5, 8, 13)


def train(
    metrics: MetricsCallback,
    who: Any,
    count: int,
    *,
    start: bool = False,
    end: bool = False,
    state: MetricsState | None = None,
) -> MetricsState:
    """Log `count` records, with `who` in them."""
    state = metrics.init(2) if state is None else state
    state = metrics.on_training_start(state) if start else state

    def iterate(state: MetricsState, index: jax.Array) -> tuple[MetricsState, None]:
        state = metrics.on_step(state, jnp.ones(2), jnp.zeros(2, bool))
        return metrics.on_iteration(state, training_log={"who": who, "index": index}), None

    state, _ = jax.lax.scan(iterate, state, jnp.arange(count))
    return metrics.on_training_end(state) if end else state


def compiled(metrics: MetricsCallback, *, closed: bool, **options: Any) -> Any:
    """Return a compiled function of `who` and `count`, which closes over the run or is given it."""
    program = functools.partial(train, **options)
    if closed:
        inner = functools.partial(program, metrics)
        return jax.jit(inner, static_argnums=1)
    return functools.partial(jax.jit(program, static_argnums=2), metrics)


def found(memory: Any, lane: int | None = None) -> Counter[tuple[int, int]]:
    values = zip(memory.values("train/who", lane), memory.values("train/index", lane), strict=True)
    return Counter((int(who), int(index)) for who, index in values)


def wanted(runs: list[tuple[int, int]]) -> Counter[tuple[int, int]]:
    return Counter((who, index) for who, count in runs for index in range(count))


WAYS = [
    {"closed": closed, "start": start, "end": end}
    for closed, start, end in itertools.product([False, True], repeat=3)
]
BUFFERED = [(way, 1) for way in WAYS] + [(way, 4) for way in WAYS if way["end"]]


def others_long(values: list[Any]) -> list[Any]:
    """Return parameters, marked `long` but for those with all options, or none, and no buffer."""
    marked = []
    for value in values:
        way, *more = value if isinstance(value, tuple) else (value,)
        marks = [pytest.mark.long] if len({*way.values()}) > 1 or more == [4] else []
        marked.append(pytest.param(way, *more, marks=marks))
    return marked


def name(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "-".join(option for option in value if value[option]) or "plain"


@pytest.mark.parametrize(("way", "buffer"), others_long(BUFFERED), ids=name)
def test_programs_of_several_threads_log_each_record_once(
    tmp_path: Path, way: dict[str, bool], buffer: int
) -> None:
    with logging_to_memory(tmp_path, buffer=buffer) as (metrics, memory):
        program = compiled(metrics, **way)
        for count in SIZES:  # which compiles, and logs
            program(7, count)
        with ThreadPoolExecutor(len(SIZES)) as threads:
            for _ in range(4):
                whos = range(len(SIZES))
                list(threads.map(lambda who: jax.block_until_ready(program(who, SIZES[who])), whos))
    assert found(memory) == wanted(
        [(7, count) for count in SIZES] + [(who, SIZES[who]) for who in range(len(SIZES))] * 4
    )


@pytest.mark.parametrize("way", others_long(WAYS), ids=name)
def test_an_execution_that_repeats_another_s_rows_is_logged_too(
    tmp_path: Path, way: dict[str, bool]
) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program = compiled(metrics, **way)
        for _ in range(3):
            program(1, 6)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: jax.block_until_ready(program(1, 6)), range(4)))
    assert found(memory) == wanted([(1, 6)] * 7)


@pytest.mark.parametrize("way", others_long(WAYS), ids=name)
def test_vmapped_executions_that_repeat_each_other_are_logged(
    tmp_path: Path, way: dict[str, bool]
) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        options = {name: way[name] for name in ("start", "end")}
        program = functools.partial(train, count=4, **options)
        if way["closed"]:
            inner = jax.jit(jax.vmap(lambda who: program(metrics, who)))
        else:
            inner = functools.partial(jax.jit(jax.vmap(program, (None, 0))), metrics)
        for _ in range(3):
            inner(jnp.arange(3))
    for lane in range(3):
        assert found(memory, lane) == wanted([(lane, 4)] * 3)


def closing_over(metrics: MetricsCallback, program: Any) -> Any:
    """Return a compiled `program` that doesn't get the run as an argument."""
    inner = jax.jit(lambda state: program(metrics, 1, 5, state=state))
    return lambda *_arguments, state: inner(state)


@pytest.mark.parametrize("way", ["argument", "started", "eager"])
def test_a_state_that_is_used_twice_is_logged_twice(tmp_path: Path, way: str) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program: Any = functools.partial(train, start=way == "started")
        if way == "argument":
            program = jax.jit(program, static_argnums=2)
        elif way == "started":
            program = closing_over(metrics, program)
        state = metrics.init(2)

        def run(_: int) -> None:
            jax.block_until_ready(program(metrics, 1, 5, state=state))

        for index in range(2):
            run(index)
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(run, range(3)))
    assert found(memory) == wanted([(1, 5)] * 5)


def test_a_state_that_is_carried_on_is_one_stream(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program = jax.jit(train, static_argnums=2)
        state = metrics.init(2)
        for who in range(5):
            state = program(metrics, who, 3, state=state)
    assert memory.values("train/who") == [who for who in range(5) for _ in range(3)]
    assert memory.values("train/index") == [0, 1, 2] * 5


def test_a_restored_state_is_logged_from_where_it_was(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program = jax.jit(train, static_argnums=2)
        saved = program(metrics, 0, 3, state=metrics.init(2))
        for who in (1, 2, 2):  # a failure, and two restarts of the same
            program(metrics, who, 4, state=saved)
    assert found(memory) == wanted([(0, 3), (1, 4), (2, 4), (2, 4)])


@pytest.mark.parametrize("end", [False, True], ids=["no end", "end"])
@pytest.mark.parametrize("count", [1, 3, 8, 9, 20])
def test_what_stays_in_a_buffer_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, end: bool
) -> None:
    with logging_to_memory(tmp_path, buffer=8) as (metrics, memory):
        program = jax.jit(functools.partial(train, end=end), static_argnums=2)
        state = program(metrics, 1, count)
        if not end and count == 20:  # what is kept in the state is sent when it is next seen
            metrics.on_training_end(state)
    kept = 0 if end or count == 20 else (count - 1) % 8
    assert memory.values("train/index") == [*range(count - kept)]
    messages = [message for message in caplog.messages if "on_training_end" in message]
    assert len(messages) == int(not end and count < 20)
    for message in messages:
        assert "1 program(s) with `buffer=8` ended without `on_training_end`" in message
        assert "up to 7 record(s) of each lane" in message


@pytest.mark.parametrize("closed", [False, True])
def test_what_checkpoint_repeats_is_logged_once(tmp_path: Path, closed: bool) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):

        def loss(weight: jax.Array, metrics: MetricsCallback = metrics) -> jax.Array:
            def iterate(carry: Any, index: jax.Array) -> tuple[Any, None]:
                state, weight = carry
                state = metrics.on_step(state, jnp.ones(2), jnp.zeros(2, bool))
                log = {"who": weight, "index": index}
                return (metrics.on_iteration(state, training_log=log), jnp.sin(weight)), None

            return jax.lax.scan(iterate, (metrics.init(2), weight), jnp.arange(4))[0][1]

        gradient = jax.jit(jax.grad(jax.checkpoint(loss)))
        for _ in range(2):
            gradient(1.0) if closed else gradient(1.0, metrics)
    assert [int(index) for index in memory.values("train/index")] == [0, 1, 2, 3] * 2
