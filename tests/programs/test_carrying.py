"""A state that a program doesn't carry is noticed on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest

from memory import logging_to_memory

if TYPE_CHECKING:
    from pathlib import Path

    from metriplex import MetricsCallback

ITERATIONS = 6


def iterate(metrics: MetricsCallback, state: Any, loss: Any) -> Any:
    state = metrics.on_step(state, jnp.ones(2), jnp.zeros(2, bool))
    return metrics.on_iteration(state, training_log={"loss": loss})


def scan(metrics: MetricsCallback, *, carried: bool, scale: Any = 1.0) -> None:
    def body(state: Any, loss: Any) -> tuple[Any, None]:
        new = iterate(metrics, state, loss * scale)
        return (new if carried else state), None

    state = metrics.on_training_start(metrics.init(2))
    jax.lax.scan(body, state, jnp.arange(float(ITERATIONS)))


def in_a_scan(metrics: MetricsCallback, *, carried: bool) -> None:
    jax.jit(scan, static_argnames="carried")(metrics, carried=carried)


def in_lanes(metrics: MetricsCallback, *, carried: bool) -> None:
    jax.vmap(lambda scale: scan(metrics, carried=carried, scale=scale))(jnp.arange(1.0, 4.0))


def in_a_loop(metrics: MetricsCallback, *, carried: bool) -> None:
    state = metrics.init(2)
    for loss in range(ITERATIONS):
        new = iterate(metrics, state, jnp.float32(loss))
        state = new if carried else state


def twice(metrics: MetricsCallback, *, carried: bool) -> None:
    for _ in range(2):
        in_a_scan(metrics, carried=carried)


@pytest.mark.parametrize("program", [in_a_scan, in_lanes, in_a_loop, twice])
@pytest.mark.parametrize("carried", [True, False])
def test_a_state_that_is_not_carried_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, program: Any, carried: bool
) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        program(metrics, carried=carried)
    told = [line for line in caplog.messages if "doesn't carry its state" in line]
    assert len(told) == (not carried)
    steps = {record.step for record in memory.records}
    assert len(steps) == (ITERATIONS if carried else 1)
    logged = {record.values["train/loss"] for record in memory.records}
    assert logged >= {float(loss) for loss in range(ITERATIONS)}


def test_repeated_short_programs_are_no_such_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with logging_to_memory(tmp_path) as (metrics, _):
        for loss in range(ITERATIONS):  # each with a state of its own
            iterate(metrics, metrics.init(2), jnp.float32(loss))
    assert caplog.messages == []
