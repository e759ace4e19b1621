"""The ring transport logs the same records as the callback transport, without host calls."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from members import some_long
from memory import logging_to_memory, plain
from metriplex import ConfigurationError, LoggingError, MetricsCallback, NonFiniteError
from metriplex.bridge.packing import HEADER, Header
from metriplex.bridge.ring import take_rows

if TYPE_CHECKING:
    from pathlib import Path

    from metriplex import MetricsState

CHUNKS, ITERATIONS = 3, 4
DRAIN: dict[str, Any] = {"transport": "drain", "buffer": ITERATIONS}
X = jnp.arange(1.0, 7.0).reshape(2, 3)


def chunk(metrics: MetricsCallback, state: MetricsState, x: jax.Array) -> MetricsState:
    """Train for four iterations, one of which is not logged."""

    def iterate(state: MetricsState, index: jax.Array) -> tuple[MetricsState, None]:
        state = metrics.on_step(state, jnp.ones(2) * x, jnp.ones(2, bool) & (state.iteration > 0))
        log = {"x": x * index, "half": jnp.bfloat16(1.5), "flag": index > 2}
        return metrics.on_iteration(state, training_log=log, where=index != 1), None

    state, _ = lax.scan(iterate, metrics.on_training_start(state), jnp.arange(ITERATIONS))
    return metrics.on_training_end(state)


WAYS: dict[str, tuple[Any, jax.Array]] = {
    "eager": (lambda f: f, X[0, 0]),
    "jit": (jax.jit, X[0, 0]),
    "vmap": (lambda f: jax.jit(jax.vmap(f)), X[0]),
    "nested vmap": (lambda f: jax.jit(jax.vmap(jax.vmap(f))), X),
}


def logged(tmp_path: Path, way: str, **options: Any) -> list[Any]:
    wrap, xs = WAYS[way]
    with logging_to_memory(tmp_path, **options) as (metrics, memory):
        state = wrap(lambda _: metrics.init(2))(xs)
        program = wrap(lambda state, x: chunk(metrics, state, x))
        for _ in range(CHUNKS):
            state = program(state, xs)
            if metrics._config.ring:
                state = metrics.drain(state)
    return [(record.lane, *plain([record])) for record in memory.records]


@pytest.mark.parametrize("way", some_long(WAYS, "jit", "vmap"))
def test_the_same_records_in_the_same_order(tmp_path: Path, way: str) -> None:
    found = logged(tmp_path, way, **DRAIN)
    assert found == logged(tmp_path, way)
    assert len(found) == CHUNKS * (ITERATIONS - 1) * max(WAYS[way][1].size, 1)


def test_the_program_has_no_callback_and_the_state_its_shapes(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path, **DRAIN) as (metrics, _):
        state = metrics.init(2)
        assert "callback" not in str(jax.make_jaxpr(lambda s: chunk(metrics, s, X[0, 0]))(state))
        drained = metrics.drain(state)
        assert jax.tree.map(jax.typeof, drained) == jax.tree.map(jax.typeof, state)
    with logging_to_memory(tmp_path) as (metrics, _):
        state = metrics.init(2)
        assert "callback" in str(jax.make_jaxpr(lambda s: chunk(metrics, s, X[0, 0]))(state))


def test_statistics_over_lanes_windows_and_seldom_records(tmp_path: Path) -> None:
    options = {"aggregate": True, "episode_stats": True, "log_every": 2}
    found = logged(tmp_path, "vmap", **options, **DRAIN)
    called = logged(tmp_path, "vmap", **options)
    for lane in (None, 0, 1, 2):
        of_lane = [one for one in found if one[0] == lane]
        assert of_lane == [one for one in called if one[0] == lane]
        assert len(of_lane) == CHUNKS  # of the two due iterations, `where` excludes one


def test_overwritten_rows_are_counted_and_the_newest_rows_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with logging_to_memory(tmp_path, transport="drain", buffer=2) as (metrics, memory):
        state = metrics.init(2)
        for _ in range(2):
            with caplog.at_level(logging.ERROR, "metriplex"):
                state = metrics.drain(jax.jit(chunk)(metrics, state, X[0, 0]))
    assert [record.iteration for record in memory.records] == [2, 3, 6, 7]
    lost = "1 record(s) are lost, as later ones took their place in the buffer: call `drain` more"
    assert [lost in message for message in caplog.messages] == [True, True]
    assert all(message.endswith("with a `buffer` of more than 2") for message in caplog.messages)


def test_lanes_that_log_at_different_times_lose_their_own_rows_only() -> None:
    words = np.zeros((2, 3, HEADER), np.uint32)
    words[..., Header.VALID] = 1
    words[..., Header.STEP_LOW] = [[3, 4, 2], [0, 99, 99]]
    blocks, lost = take_rows(words, np.array([5, 1], np.int32))
    assert lost == 2
    rows = [block.rows[:, 0] for block in blocks]
    assert [[int(v) for v in row[:, Header.VALID]] for row in rows] == [[1, 1], [1, 0], [1, 0]]
    assert [int(row[0, Header.STEP_LOW]) for row in rows] == [2, 3, 4]
    assert int(rows[0][1, Header.STEP_LOW]) == 0


def test_draining_an_empty_buffer_logs_nothing(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path, **DRAIN) as (metrics, memory):
        metrics.drain(metrics.drain(metrics.init(2)))
    assert memory.records == []


def test_draining_a_sharded_program_gives_global_values_without_a_second_compilation(
    tmp_path: Path,
) -> None:
    rewards = jnp.arange(8.0)

    def program(metrics: MetricsCallback, state: MetricsState, rewards: jax.Array) -> MetricsState:
        state = metrics.on_step(state, rewards, jnp.ones(8, bool))
        return metrics.on_iteration(state, training_log={"mean": rewards.mean()})

    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(rewards, NamedSharding(mesh, P("x")))
    compiled = jax.jit(program)
    with logging_to_memory(tmp_path, **DRAIN) as (metrics, memory):
        state = metrics.drain(compiled(metrics, metrics.init(8), spread))
        for _ in range(3):
            before = compiled._cache_size()  # ty: ignore[missing-attribute]
            state = metrics.drain(compiled(metrics, state, spread))
        assert compiled._cache_size() == before  # ty: ignore[missing-attribute]
    assert memory.values("train/mean") == [3.5] * 4
    assert memory.values("episode/return") == pytest.approx([3.5] * 4)
    assert memory.steps() == [8, 16, 24, 32]


def test_a_nan_is_rejected_and_raised_after_the_drain(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path, nonfinite="raise", **DRAIN) as (metrics, memory):
        state = metrics.on_iteration(metrics.init(1), training_log={"loss": jnp.nan, "kl": 0.5})
        metrics.drain(state)
        with pytest.raises(NonFiniteError, match="`train/loss` is nan at step 0"):
            metrics.flush()
    assert [dict(record.values) for record in memory.records] == [{"train/kl": 0.5}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer": 0}, r'`transport="drain"` keeps .* needs `buffer=`'),
        ({"nonfinite": "abort"}, "stops the program from the host"),
        ({"video_interval": 3, "env": "CartPole"}, "`video_interval=3` sends rollouts"),
        ({"transport": "pigeon"}, r"`transport` must be one of 'auto', 'ffi', 'callback', 'drain'"),
    ],
)
def test_options_that_need_a_callback_are_rejected(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MetricsCallback(log_dir=tmp_path, backends=[], **{**DRAIN, **options})
    assert list(tmp_path.iterdir()) == []


def test_calls_that_the_transport_does_not_support_raise(tmp_path: Path) -> None:
    unkept = pytest.raises(LoggingError, match='only `transport="drain"` keeps')
    with logging_to_memory(tmp_path) as (metrics, _), unkept:
        metrics.drain(metrics.init(1))
    with logging_to_memory(tmp_path, **DRAIN) as (metrics, memory):
        with pytest.raises(LoggingError, match="`log` inside of compiled code calls the host"):
            jax.jit(lambda a: metrics.log(1, {"a": a}))(1.0)
        metrics.log(1, {"a": 0.5})
        mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
        program = jax.shard_map(
            lambda x: metrics.init(1).iteration + x, mesh=mesh, in_specs=P("x"), out_specs=P("x")
        )
        with pytest.raises(LoggingError, match="use `jit` over sharded arrays"):
            program(jnp.arange(8))
    assert plain(memory.records) == [(None, 1, None, {"a": 0.5})]


NEVER = "run `run` is closed and `drain` was never called"


@pytest.mark.parametrize("way", ["init outside", "init inside", "closed over"])
def test_a_run_that_is_never_drained_warns_once_that_its_records_are_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    def program(metrics: MetricsCallback) -> MetricsState:
        return metrics.on_iteration(metrics.init(1), training_log={"x": 0.5})

    with logging_to_memory(tmp_path, **DRAIN) as (metrics, memory):
        if way == "init outside":
            metrics.on_iteration(metrics.init(1), training_log={"x": 0.5})
        elif way == "init inside":
            jax.jit(program)(metrics)
        else:
            jax.jit(lambda: program(metrics))()
    metrics.close()
    assert memory.records == []
    (warning,) = caplog.messages
    assert warning.startswith(NEVER)
    assert "call `state = metrics.drain(state)` between two programs and after" in warning


def test_a_failed_program_does_not_hide_the_warning_about_lost_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        with logging_to_memory(tmp_path, **DRAIN) as (metrics, _):
            metrics.init(1)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert [NEVER in message for message in caplog.messages] == [True]


def test_there_is_no_warning_if_nothing_can_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with logging_to_memory(tmp_path / "a", **DRAIN) as (metrics, memory):
        metrics.log(1, {"a": 0.5})  # logged by the host, without a ring
    with logging_to_memory(tmp_path / "b", **DRAIN) as (metrics, _):
        metrics.drain(metrics.on_iteration(metrics.init(1)))
    with logging_to_memory(tmp_path / "c") as (metrics, _):
        metrics.init(1)
    assert caplog.messages == []
    assert memory.values("a") == [0.5]


CACHED = """
import sys
import jax
import jax.numpy as jnp
from metriplex import MetricsCallback

hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
with MetricsCallback(log_dir=sys.argv[1], backends=[], transport="drain", buffer=8) as metrics:
    @jax.jit
    def training(metrics, state):
        def iterate(state, i):
            return metrics.on_iteration(state, training_log={"i": i}), None
        return jax.lax.scan(iterate, state, jnp.arange(8))[0]

    state = metrics.init(1)
    hits.clear()
    metrics.drain(jax.block_until_ready(training(metrics, state)))
names = [name.rpartition("/")[2] for name in hits if "compilation_cache" in name]
print("hit" if "cache_hits" in names else "miss")
"""


@pytest.mark.slow
def test_a_second_process_finds_the_program_in_the_compilation_cache(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-c", CACHED, str(tmp_path / "logs")]
    outputs = [
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [one.stdout.strip() for one in outputs] == ["miss", "hit"]
