"""Compiled programs that log to backends which fail: neither training nor other backends notice."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import Memory, plain
from metriplex import MetricsCallback, NonFiniteError
from metriplex.plugins.hookspecs import BACKEND_HOOKS
from metriplex.testing.faults import FaultyBackend, hangs, raises

if TYPE_CHECKING:
    from collections.abc import Generator

    from metriplex.testing.faults import Fault

ITERATIONS = 40
LONG = 60.0


@jax.jit
def _train(metrics: MetricsCallback, key: jax.Array, bad: jax.Array) -> jax.Array:
    """Gradient steps on a small network; iteration `bad` logs a NaN."""

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.mean((jnp.tanh(x @ weights) - 0.3) ** 2)

    def body(carry: Any, index: jax.Array) -> Any:
        weights, key, state = carry
        key, now = jax.random.split(key)
        value, slope = jax.value_and_grad(loss)(weights, jax.random.normal(now, (8, 4)))
        weights = weights - 0.1 * slope
        state = metrics.on_step(state, weights[0], weights[1] > 0)
        log = {"loss": jnp.where(index == bad, jnp.nan, value), "norm": jnp.sum(weights**2)}
        state = metrics.on_iteration(state, training_log=log)
        return (weights, key, state), None

    state = metrics.on_training_start(metrics.init(4))
    carry = (jax.random.normal(key, (4, 4)), key, state)
    (weights, _, state), _ = jax.lax.scan(body, carry, jnp.arange(ITERATIONS))
    metrics.on_training_end(state)
    return weights


def train(metrics: MetricsCallback, bad: int = -1) -> np.ndarray:
    return np.asarray(_train(metrics, jax.random.key(0), jnp.int32(bad)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return the parameters that the same compiled program trains without any backend."""
    with MetricsCallback("run", log_dir=tmp_path_factory.mktemp("logs"), backends=[]) as metrics:
        return train(metrics)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the records of a healthy backend that is alone."""
    memory = Memory()
    with MetricsCallback("run", log_dir=tmp_path_factory.mktemp("logs"), backends=memory) as alone:
        train(alone)
    found = plain(memory.records)
    assert [step for _, step, *_ in found] == [4 * (i + 1) for i in range(ITERATIONS)]
    return found


def faulty(hook: str, fault: Fault) -> FaultyBackend:
    return FaultyBackend({hook: fault}, flush_secs=1e-3)


def everything(metrics: MetricsCallback) -> np.ndarray:
    """Calls for every hook."""
    metrics.log_text("note", "hello")
    metrics.log_video("clip", np.zeros((1, 2, 2, 3), np.uint8), fps=50.0)
    metrics.log_image("picture", np.zeros((2, 2, 3), np.uint8))
    metrics.log_histogram("weights", [0.0, 1.0])
    metrics.log_artifact(__file__)
    return train(metrics)


SCALARS_AND_OTHERS = ITERATIONS + 6
ERRORS = [ValueError, SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit, ConnectionError]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("hook", BACKEND_HOOKS)
def test_a_backend_that_raises_changes_nothing_for_anybody_else(
    tmp_path: Any,
    weights: np.ndarray,
    expected: Any,
    caplog: pytest.LogCaptureFixture,
    hook: str,
    error: type[BaseException],
) -> None:
    memories = [Memory(), Memory()]
    failing = faulty(hook, raises(error("no")))
    backends = [memories[0], failing, memories[1]]
    with MetricsCallback(
        "run", log_dir=tmp_path, backends=backends, hparams={"lr": 0.1}
    ) as metrics:
        assert np.array_equal(everything(metrics), weights)
    for memory in memories:
        assert plain(memory.records) == expected
        assert (memory.status, len(memory.texts), len(memory.videos)) == ("finished", 1, 1)
        assert len(memory.media) == 3
        assert memory.hparams == [{"lr": 0.1}]
    first, broken, second = metrics.deliveries()
    for healthy in (first, second):
        assert (healthy.delivered, healthy.undelivered) == (SCALARS_AND_OTHERS, 0)
        assert healthy.error is None
    assert broken.delivered + broken.undelivered == SCALARS_AND_OTHERS
    if hook == "flush":  # nothing is known to be stored
        assert broken.delivered == 0
    else:
        assert broken.delivered >= len(failing.records())
    assert broken.error == f"{error.__name__}: no"
    messages = [entry.getMessage() for entry in caplog.records]
    assert any("`faulty`" in m and f"`{hook}`" in m and error.__name__ in m for m in messages)
    assert not any("memory" in m for m in messages)


@contextlib.contextmanager
def _released(event: threading.Event) -> Generator[None]:
    """Lets hung threads go after the test, and waits for them."""
    try:
        yield
    finally:
        event.set()
        for thread in threading.enumerate():
            if thread.name == "metriplex-faulty":
                thread.join(LONG)


@pytest.mark.parametrize("hook", BACKEND_HOOKS)
def test_a_backend_that_hangs_changes_nothing_for_anybody_else(
    tmp_path: Any, weights: np.ndarray, expected: Any, caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    release = threading.Event()
    memory = Memory()
    hung = faulty(hook, hangs(until=release))
    backends = [hung, memory]
    with _released(release):
        metrics = MetricsCallback("run", log_dir=tmp_path, backends=backends, hparams={"lr": 0.1})
        assert np.array_equal(everything(metrics), weights)
        if hook != "close_run":
            assert hung.begun[hook].acquire(timeout=LONG)
            metrics.flush(timeout=0.01)
        metrics.close(timeout=0.2)
        assert hook in hung.hooks()
        assert "metriplex-faulty" in {thread.name for thread in threading.enumerate()}
        for thread in threading.enumerate():
            if thread.name == "metriplex-memory":
                thread.join(LONG)
        broken, healthy = metrics.deliveries()
        assert plain(memory.records) == expected
        assert memory.status == "finished"
        assert (healthy.delivered, healthy.undelivered) == (SCALARS_AND_OTHERS, 0)
        assert broken.delivered + broken.undelivered == SCALARS_AND_OTHERS
        messages = [entry.getMessage() for entry in caplog.records]
        assert any("`faulty`, which was still busy after 0.2 s" in m for m in messages)
    (broken, _) = metrics.deliveries()
    assert (broken.delivered, broken.undelivered) == (SCALARS_AND_OTHERS, 0)


def test_a_slow_backend_gets_everything_before_close_returns(
    tmp_path: Any, weights: np.ndarray
) -> None:
    """It is let in only when the program has long ended."""
    gate = threading.Event()

    def wait() -> None:
        assert gate.wait(LONG)

    slow = faulty("log_scalars", wait)
    with MetricsCallback("run", log_dir=tmp_path, backends=slow) as metrics:
        assert np.array_equal(train(metrics), weights)
        gate.set()
    assert len(slow.records()) == ITERATIONS


@pytest.mark.parametrize("journal", [False, True], ids=["without", "with"])
def test_what_finds_no_room_comes_from_the_journal_and_without_one_is_dropped(
    tmp_path: Any, caplog: pytest.LogCaptureFixture, journal: bool
) -> None:
    gate = threading.Event()

    def wait() -> None:
        assert gate.wait(LONG)

    taken = threading.Semaphore(0)
    slow, quick = faulty("open_run", wait), faulty("log_scalars", taken.release)
    with MetricsCallback(
        "run", log_dir=tmp_path, backends=[slow, quick], queue_size=7, journal=journal
    ) as metrics:
        for step in range(10):
            metrics.log(step, {"a": 1.0})
            assert taken.acquire(timeout=LONG)
        gate.set()
        metrics.flush()
        assert len(slow.records()) == (10 if journal else 7)
        metrics.log(10, {"a": 1.0})
    lost = 0 if journal else 3
    assert (len(slow.records()), len(quick.records())) == (11 - lost, 11)
    assert [(d.delivered, d.undelivered) for d in metrics.deliveries()] == [
        (11 - lost, lost),
        (11, 0),
    ]
    if journal:
        assert caplog.messages == []
        return
    warned, reported = caplog.messages
    assert "backend `faulty` is too slow or hangs: 7 records wait for it" in warned
    assert "3 of 11 record(s) did not reach backend `faulty`" in reported


# ---- NaN ----------------------------------------------------------------------------------------


def test_a_nan_in_a_program_raises_at_the_end_of_the_block_and_reaches_no_backend(
    tmp_path: Any, weights: np.ndarray, expected: Any
) -> None:
    memory = Memory()
    with (
        pytest.raises(NonFiniteError, match=r"`train/loss` is nan at step 24; 1 value"),
        MetricsCallback("run", log_dir=tmp_path, backends=memory, nonfinite="raise") as metrics,
    ):
        assert np.array_equal(train(metrics, bad=5), weights)
    got = plain(memory.records)
    assert "train/loss" not in got[5][3]
    assert [record[:3] for record in got] == [record[:3] for record in expected]
    assert got[5][3]["train/norm"] == expected[5][3]["train/norm"]


def _fail(_: object) -> None:
    raise ZeroDivisionError("mine")


def test_a_nan_does_not_mask_the_error_of_the_user(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory()
    with (
        pytest.raises(ZeroDivisionError, match="mine"),
        MetricsCallback("run", log_dir=tmp_path, backends=memory) as metrics,
    ):
        _fail(train(metrics, bad=0))
    assert memory.status == "failed"
    assert caplog.messages == [
        "run `run`: `train/loss` is nan at step 4; the value reaches no backend",
        "run `run`: 1 value(s) that are NaN or infinite were rejected, of `train/loss`",
    ]
    assert {entry.levelno for entry in caplog.records} == {logging.ERROR}
