"""The callback end to end, from a training loop to what a backend is told."""

from __future__ import annotations

import functools
import logging
import math
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memory import Memory, logging_to_memory, plain
from metriplex import ClosedError, MetricsCallback, MetricsState, RunInfo, Scalars, hookimpl
from metriplex.device import checks as arguments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EPISODE = ("episode/return", "episode/length")

# Two environments, six steps. The first one's episodes: 1 + 2 = 3 in 2 steps, then 3 + 4 + 5 = 12
# in 3; the second one's: 10 + 20 + 30 + 40 = 100 in 4 steps.
REWARD = jnp.array([[1.0, 10.0], [2, 20], [3, 30], [4, 40], [5, 50], [6, 60]])
DONE = jnp.array([[0, 0], [1, 0], [0, 0], [0, 1], [1, 0], [0, 0]], bool)

RETURNS = [(0.9 * 12 + 0.1 * 3 + 100) / 2, (0.9 * 3 + 0.1 * 2 + 4) / 2]


def values_of(record: Scalars) -> dict[str, Any]:
    return {tag: value for tag, value in record.values.items() if not tag.startswith("time/")}


def step_by_step(metrics: MetricsCallback, state: MetricsState) -> MetricsState:
    for reward, done in zip(REWARD, DONE, strict=True):
        state = metrics.on_step(state, reward, done)
    return state


def in_a_scan(metrics: MetricsCallback, state: MetricsState) -> MetricsState:
    def turn(state: MetricsState, xs: tuple[jax.Array, jax.Array]) -> tuple[MetricsState, None]:
        return metrics.on_step(state, *xs), None

    return jax.lax.scan(turn, state, (REWARD, DONE))[0]


def as_a_rollout(metrics: MetricsCallback, state: MetricsState) -> MetricsState:
    return metrics.on_step(state, REWARD, DONE)


def by_two_ends(metrics: MetricsCallback, state: MetricsState) -> MetricsState:
    truncated = DONE.at[:3].set(False)
    return metrics.on_step(state, REWARD, terminated=DONE & ~truncated, truncated=truncated)


def by_one_end(metrics: MetricsCallback, state: MetricsState) -> MetricsState:
    return metrics.on_step(state, REWARD, truncated=DONE)


@pytest.mark.parametrize("steps", [step_by_step, in_a_scan, as_a_rollout, by_two_ends, by_one_end])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_every_tag_has_its_value(
    tmp_path: Path,
    steps: Callable[[MetricsCallback, MetricsState], MetricsState],
    compiled: bool,
) -> None:
    def train(metrics: MetricsCallback) -> MetricsState:
        state = steps(metrics, metrics.init(2))
        return metrics.on_iteration(
            state, training_log={"loss": 0.5, "deep": {"kl": jnp.ones((1, 1))}}
        )

    with logging_to_memory(tmp_path) as (metrics, memory):
        (jax.jit(train) if compiled else train)(metrics)
    (record,) = memory.records
    assert (record.step, record.iteration, record.lane) == (12, 0, None)
    assert values_of(record) == {
        "episode/return": pytest.approx(RETURNS[0], rel=1e-6),
        "episode/length": pytest.approx(RETURNS[1], rel=1e-6),
        "train/loss": 0.5,
        "train/deep/kl": 1.0,
    }


def test_episode_tags_are_absent_before_the_first_finished_episode(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path, episode_stats=True) as (metrics, memory):
        state = metrics.init(2)
        for step in range(4):
            state = metrics.on_step(state, REWARD[step], DONE[step])
            state = metrics.on_iteration(state)
    assert [r.step for r in memory.records] == [2, 4, 6, 8]
    assert memory.values("episode/count") == [0, 1, 0, 1]
    assert [sorted(set(EPISODE) & set(r.values)) for r in memory.records] == [
        [],
        *[sorted(EPISODE)] * 3,
    ]
    # the second environment hasn't finished one until the last step: it does not count until then
    assert memory.values("episode/return") == [3.0, 3.0, 51.5]
    assert memory.values("episode/length") == [2.0, 2.0, 3.0]


def test_a_record_without_values_reaches_no_backend(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        metrics.on_iteration(metrics.init(1))
    assert memory.records == []


@pytest.mark.parametrize("alpha", [0.25, 1, np.float32(0.5)])
def test_alpha_weighs_the_newest_episode(tmp_path: Path, alpha: Any) -> None:
    with logging_to_memory(tmp_path, alpha=alpha) as (metrics, memory):
        metrics.on_iteration(as_a_rollout(metrics, metrics.init(2)))
    newest = float(alpha) * 12 + (1 - float(alpha)) * 3
    assert memory.values("episode/return") == [pytest.approx((newest + 100) / 2)]


def test_statistics_of_the_newest_episodes(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path, episode_stats=True) as (metrics, memory):
        state = metrics.on_iteration(as_a_rollout(metrics, metrics.init(2)))
        metrics.on_iteration(metrics.on_step(state, jnp.zeros(2), jnp.array([True, False])))
    first, second = (values_of(record) for record in memory.records)
    names = {tag: value for tag, value in first.items() if tag not in EPISODE}
    assert names == {
        "episode/count": 3,
        "episode/return_min": 3.0,
        "episode/return_max": 100.0,
        "episode/return_mean": pytest.approx(115 / 3),
        "episode/length_min": 2,
        "episode/length_max": 4,
        "episode/length_mean": 3.0,
    }
    assert second["episode/count"] == 1
    assert second["episode/return_mean"] == 6.0


def test_the_callers_dictionary_is_unchanged(tmp_path: Path) -> None:
    log: dict[str, Any] = {"loss": jnp.float32(1), "deep": {"a": np.ones((1,)), "b": None}}
    deep = log["deep"].copy()
    with logging_to_memory(tmp_path) as (metrics, memory):
        metrics.on_iteration(metrics.init(1), training_log=log, opt_state=optax.sgd(0.1).init({}))
    assert list(log) == ["loss", "deep"]
    assert log["deep"] == deep
    assert values_of(memory.records[0]).keys() == {
        "train/loss",
        "train/deep/a",
        "train/learning_rate",
    }


def test_arrays_are_averaged_if_asked_for(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path, reduce="mean") as (metrics, memory):
        metrics.on_iteration(metrics.init(1), training_log={"loss": jnp.arange(4.0)})
    assert memory.values("train/loss") == [1.5]


def test_iterations_are_counted_or_given(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        state = metrics.init(1)
        for given in (None, None, 7, jnp.int16(9), None):
            state = metrics.on_iteration(state, iteration=given, training_log={"x": 1})
    assert [r.iteration for r in memory.records] == [0, 1, 7, 9, 4]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_only_every_nth_iteration_is_logged(tmp_path: Path, compiled: bool) -> None:
    def train(metrics: MetricsCallback) -> MetricsState:
        def turn(state: MetricsState, i: jax.Array) -> tuple[MetricsState, None]:
            state = metrics.on_step(state, jnp.ones(2), jnp.zeros(2, bool))
            return metrics.on_iteration(state, training_log={"i": i}), None

        return jax.lax.scan(turn, metrics.init(2), jnp.arange(8))[0]

    with logging_to_memory(tmp_path, log_every=3) as (metrics, memory):
        (jax.jit(train) if compiled else train)(metrics)
    assert [(r.step, r.iteration, r.values["train/i"]) for r in memory.records] == [
        (6, 2, 2),
        (12, 5, 5),
    ]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_where_decides_as_data(tmp_path: Path, compiled: bool) -> None:
    def train(metrics: MetricsCallback, wanted: jax.Array) -> MetricsState:
        def turn(state: MetricsState, want: jax.Array) -> tuple[MetricsState, None]:
            return metrics.on_iteration(state, training_log={"x": 1.0}, where=want), None

        return jax.lax.scan(turn, metrics.init(1), wanted)[0]

    with logging_to_memory(tmp_path) as (metrics, memory):
        (jax.jit(train) if compiled else train)(metrics, jnp.array([True, False, False, True]))
        metrics.on_iteration(metrics.init(1), training_log={"x": 2.0}, where=False)
    assert [r.iteration for r in memory.records] == [0, 3]


# ---- the learning rate --------------------------------------------------------------------------


@pytest.fixture
def fresh_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    arguments._log_once.cache_clear()
    caplog.set_level(logging.WARNING, "metriplex")
    return caplog


def rates(tmp_path: Path, opt_state: Any, log: Any = None, **options: Any) -> list[Any]:
    with logging_to_memory(tmp_path, **options) as (metrics, memory):
        state = metrics.init(1)
        for _ in range(2):
            state = metrics.on_iteration(state, training_log=log, opt_state=opt_state)
    return memory.values("train/learning_rate")


def test_a_rate_in_the_state_is_read(tmp_path: Path) -> None:
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.125)
    state = optimizer.init(jnp.zeros(2))
    assert rates(tmp_path, state) == [0.125, 0.125]
    assert rates(tmp_path, state, learning_rate=3.0) == [0.125, 0.125]


def test_an_unknown_rate_is_nan_and_explained_once(
    tmp_path: Path, fresh_log: pytest.LogCaptureFixture
) -> None:
    state = optax.adam(1e-3).init(jnp.zeros(2))
    assert all(math.isnan(rate) for rate in rates(tmp_path, state))
    assert len(rates(tmp_path / "again", state)) == 2
    (explained,) = fresh_log.messages
    assert "`train/learning_rate` is unknown and logged as NaN" in explained
    assert "Pass `learning_rate=`" in explained


def test_a_given_schedule_is_evaluated_at_the_state_s_own_count(tmp_path: Path) -> None:
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    optimizer = optax.adam(schedule)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    with logging_to_memory(tmp_path, learning_rate=schedule) as (metrics, memory):
        metrics_state = metrics.init(1)
        for _ in range(4):
            _, state = optimizer.update(params, state, params)
            metrics_state = metrics.on_iteration(metrics_state, opt_state=state)
    assert memory.values("train/learning_rate") == [1.0, 0.75, 0.5, 0.25]


def test_a_given_rate_needs_no_state(tmp_path: Path, fresh_log: pytest.LogCaptureFixture) -> None:
    assert rates(tmp_path, None, learning_rate=np.float32(3e-4)) == [float(np.float32(3e-4))] * 2
    assert fresh_log.messages == []


def test_a_schedule_without_a_count_is_explained(
    tmp_path: Path, fresh_log: pytest.LogCaptureFixture
) -> None:
    given = rates(tmp_path, None, learning_rate=optax.linear_schedule(1.0, 0.0, 4))
    assert [math.isnan(rate) for rate in given] == [True, True]
    (explained,) = fresh_log.messages
    assert "counts no steps for the schedule" in explained


def test_the_training_log_s_own_rate_wins(
    tmp_path: Path, fresh_log: pytest.LogCaptureFixture
) -> None:
    state = optax.adam(1e-3).init(jnp.zeros(2))
    assert rates(tmp_path, state, {"learning_rate": 0.5}, learning_rate=0.25) == [0.5, 0.5]
    assert rates(tmp_path / "again", state, {"learning_rate": 0.5}) == [0.5, 0.5]
    assert fresh_log.messages == []


def test_no_state_and_no_rate_log_nothing(tmp_path: Path) -> None:
    assert rates(tmp_path, None, {"x": 1}) == []


# ---- what is logged by hand ---------------------------------------------------------------------


def test_log_takes_host_values_exactly(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        metrics.log(2**53 + 1, {"int": 2**62 + 1, "deep": {"f": 0.1, "b": True}})
        metrics.log(np.int64(5), {"half": jnp.bfloat16(1.5), "one": np.ones((1, 1), np.float16)})
        metrics.log(jnp.uint32(6), {"a/b": jnp.float32(0.1)})
    assert plain(memory.records) == [
        (None, 2**53 + 1, None, {"int": 2**62 + 1, "deep/f": 0.1, "deep/b": True}),
        (None, 5, None, {"half": 1.5, "one": 1.0}),
        (None, 6, None, {"a/b": float(np.float32(0.1))}),
    ]
    assert [type(value) for value in memory.records[0].values.values()] == [int, float, bool]


def test_log_in_compiled_code(tmp_path: Path) -> None:
    @jax.jit
    def program(metrics: MetricsCallback, x: jax.Array) -> None:
        metrics.log(2**40, {"fixed": x})
        metrics.log(x.astype(jnp.uint8), {"traced": x + 1})

    with logging_to_memory(tmp_path) as (metrics, memory):
        program(metrics, jnp.float32(200.0))
    assert sorted(plain(memory.records), key=lambda record: record[1]) == [
        (None, 200, None, {"traced": 201.0}),
        (None, 2**40, None, {"fixed": 200.0}),
    ]


def test_text_and_video(tmp_path: Path) -> None:
    frames = np.zeros((3, 4, 5, 3), np.uint8)
    before = time.time()
    with logging_to_memory(tmp_path) as (metrics, memory):
        metrics.log_text("notes", "*hello*", step=2**33)
        metrics.log_video("eval/video", frames, fps=30, step=4)
    ((text,), (video,)) = memory.texts, memory.videos
    assert (text.step, text.tag, text.text, text.lane) == (2**33, "notes", "*hello*", None)
    assert (video.step, video.tag, video.fps) == (4, "eval/video", 30)
    assert video.frames is not None
    assert video.frames.shape == (3, 4, 5, 3)
    assert before <= text.wall_time <= video.wall_time <= time.time()


def test_deliveries_count_what_arrived(tmp_path: Path) -> None:
    memory = Memory()
    with MetricsCallback("run", log_dir=tmp_path, backends=[memory]) as metrics:
        for step in range(5):
            metrics.log(step, {"x": 1})
        metrics.log_text("a", "b")
        metrics.flush()
        (delivery,) = metrics.deliveries()
        assert (delivery.backend, delivery.delivered, delivery.undelivered) == ("memory", 6, 0)
    assert metrics.deliveries() == (delivery,)
    assert memory.calls[0] == "open_run"
    assert memory.calls[-1] == "close_run"
    assert memory.status == "finished"


# ---- as a pytree --------------------------------------------------------------------------------


def test_it_is_a_pytree_of_one_array(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):
        leaves, treedef = jax.tree.flatten(metrics)
        (leaf,) = leaves
        assert (np.asarray(leaf).dtype, np.shape(leaf)) == (np.int32, (2,))
        ((path, _),) = jax.tree_util.tree_flatten_with_path(metrics)[0]
        assert jax.tree_util.keystr(path) == ".handle"
        copy = jax.tree.unflatten(treedef, leaves)
        assert jax.tree.structure(copy) == treedef
        copy.log(1, {"x": 1.0})
        assert copy.directory == metrics.directory
        assert jax.tree.unflatten(treedef, [None])._handle is None
    assert memory.steps() == [1]


def test_equal_configurations_share_one_trace_and_keep_runs_apart(tmp_path: Path) -> None:
    traces = []

    @jax.jit
    def train(metrics: MetricsCallback, x: jax.Array) -> MetricsState:
        traces.append(metrics)
        state = metrics.on_iteration(metrics.init(1), training_log={"x": x})
        return metrics.on_training_end(state)

    schedule = optax.linear_schedule(1.0, 0.0, 10)
    memories = []
    given: dict[str, Any] = {"learning_rate": schedule}
    for turn, options in enumerate([{}, {}, given, given]):
        with logging_to_memory(tmp_path, **options) as (metrics, memory):
            train(metrics, jnp.float32(turn))
        memories.append(memory)
    assert [memory.values("train/x") for memory in memories] == [[0.0], [1.0], [2.0], [3.0]]
    assert len(traces) == 2
    with logging_to_memory(tmp_path, alpha=0.5) as (metrics, _):
        train(metrics, jnp.float32(0))
    assert len(traces) == 3
    assert repr(traces[0]) == "MetricsCallback(<traced>)"


class TupleState(NamedTuple):
    metrics: MetricsCallback
    state: MetricsState
    step: jax.Array


@final
@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["metrics", "state", "step"], meta_fields=[]
)
@dataclass(frozen=True)
class DataState:
    metrics: MetricsCallback
    state: MetricsState
    step: jax.Array = field(default_factory=lambda: jnp.int32(0))


@pytest.mark.parametrize("kind", [TupleState, DataState])
def test_it_can_live_in_a_train_state(tmp_path: Path, kind: Any) -> None:
    @jax.jit
    def train(carry: Any) -> Any:
        def turn(carry: Any, _: None) -> tuple[Any, None]:
            state = carry.metrics.on_iteration(carry.state, training_log={"x": carry.step})
            return kind(carry.metrics, state, carry.step + 1), None

        return jax.lax.scan(turn, carry, length=3)[0]

    with logging_to_memory(tmp_path) as (metrics, memory):
        first = train(kind(metrics, metrics.init(1), jnp.int32(0)))
        second = train(first)
        assert isinstance(second.metrics, MetricsCallback)
        second.metrics.log(99, {"eager": 1})
        second.metrics.flush()
        assert repr(second.metrics) == "MetricsCallback('run')"
    assert memory.values("train/x") == [0, 1, 2, 3, 4, 5]
    assert 99 in memory.steps()


def test_a_tree_map_after_close_is_harmless(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, _):
        pass
    mapped = jax.tree.map(lambda leaf: leaf, (metrics, jnp.ones(2)))[0]
    moved = jax.device_put(metrics)
    shapes = jax.eval_shape(lambda tree: tree, metrics)
    for one in (mapped, moved):
        assert jax.tree.structure(one) == jax.tree.structure(metrics)
    assert repr(shapes) == "MetricsCallback(<traced>)"


def test_its_repr_names_the_run(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, _):
        assert repr(metrics) == "MetricsCallback('run')"
    assert repr(metrics) == "MetricsCallback('run')"


def test_a_donated_state_is_reused(tmp_path: Path) -> None:
    @functools.partial(jax.jit, donate_argnums=1)
    def iterate(metrics: MetricsCallback, state: MetricsState) -> MetricsState:
        state = metrics.on_step(state, jnp.ones(2), jnp.ones(2, bool))
        return metrics.on_iteration(state)

    with logging_to_memory(tmp_path) as (metrics, memory):
        state = first = metrics.init(2)
        for _ in range(3):
            state = iterate(metrics, state)
    assert memory.steps() == [2, 4, 6]
    assert first.env_steps.low.is_deleted()


# ---- names and directories ----------------------------------------------------------------------

ENV, POLICY = SimpleNamespace(name="CartPole-v1"), SimpleNamespace(name="MLP")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"env": ENV, "policy": POLICY}, "MLP_CartPole-v1_20240102_030405"),
        ({"env": ENV}, "CartPole-v1_20240102_030405"),
        ({"policy": POLICY}, "MLP_20240102_030405"),
        ({}, "training_20240102_030405"),
        ({"name": "mine", "env": ENV, "policy": POLICY}, "mine"),
    ],
)
def test_the_directory_is_named_by_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", datetime(2024, 1, 2, 3, 4, 5).timestamp)
    names = []
    for _ in range(3):  # in the same second
        with MetricsCallback(**options, backends=[]) as metrics:
            names.append(metrics.directory.name)
            assert metrics.directory.parent == tmp_path / "logs"
            assert metrics.directory.is_dir()
            assert metrics.run.info.name == metrics.directory.name
            assert metrics.run.info.start_time == datetime(2024, 1, 2, 3, 4, 5).timestamp()
    assert names == [expected, f"{expected}_2", f"{expected}_3"]


def test_a_run_whose_name_is_taken_says_its_directory_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metriplex")
    for name, level in (("exp", "INFO"), ("exp_2", "WARNING"), ("exp_3", "WARNING")):
        caplog.clear()
        MetricsCallback("exp", log_dir=tmp_path, backends=[]).close()
        (line,) = (record for record in caplog.records if str(tmp_path) in record.getMessage())
        assert (line.levelname, str(tmp_path / name) in line.getMessage()) == (level, True)


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_log_dir_moves_the_run(tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    log_dir = tmp_path / "else" / "where"
    with MetricsCallback("a", log_dir=kind(log_dir), backends=[], total_steps=7) as metrics:
        assert metrics.directory == log_dir / "a"
        assert metrics.run.info.total_steps == 7


# ---- after close --------------------------------------------------------------------------------

Method = Callable[[MetricsCallback, MetricsState], object]

DEVICE_METHODS: dict[str, Method] = {
    "init": lambda m, _: m.init(1),
    "on_training_start": lambda m, s: m.on_training_start(s),
    "on_step": lambda m, s: m.on_step(s, jnp.zeros(1), jnp.zeros(1)),
    "on_iteration": lambda m, s: m.on_iteration(s, training_log={"x": 1}),
    "on_training_end": lambda m, s: m.on_training_end(s),
    "log": lambda m, _: m.log(0, {"x": 1}),
}
HOST_METHODS: dict[str, Method] = {
    "log_hparams": lambda m, _: m.log_hparams({"x": 1}),
    "log_text": lambda m, _: m.log_text("a", "b"),
    "log_video": lambda m, _: m.log_video("a", np.zeros((1, 2, 2, 3), np.uint8), fps=1),
    "log_image": lambda m, _: m.log_image("a", np.zeros((2, 2, 3), np.uint8)),
    "log_histogram": lambda m, _: m.log_histogram("a", [1.0, 2.0]),
    "log_artifact": lambda m, _: m.log_artifact(__file__),
    "flush": lambda m, _: m.flush(),
    "with": lambda m, _: m.__enter__(),
}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[MetricsCallback, MetricsState]:
    with MetricsCallback("gone", log_dir=tmp_path_factory.mktemp("logs"), backends=[]) as metrics:
        state = metrics.init(1)
    return metrics, state


@pytest.mark.parametrize("name", [*DEVICE_METHODS, *HOST_METHODS])
def test_every_method_refuses_after_close(
    closed: tuple[MetricsCallback, MetricsState], name: str
) -> None:
    method = (DEVICE_METHODS | HOST_METHODS)[name]
    with pytest.raises(ClosedError, match=r"run `gone` is closed: .*construct a new"):
        method(*closed)


@pytest.mark.parametrize("name", DEVICE_METHODS)
def test_a_closed_run_is_not_traced(
    closed: tuple[MetricsCallback, MetricsState], name: str
) -> None:
    metrics, state = closed
    method = DEVICE_METHODS[name]
    with pytest.raises(ClosedError, match=r"run `gone` is closed"):
        jax.jit(lambda state: method(metrics, state))(state)


def test_a_program_that_goes_on_after_close_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = jax.jit(lambda m: m.on_iteration(m.init(1), training_log={"x": 1}))
    with logging_to_memory(tmp_path) as (metrics, memory):
        train(metrics)
    train(metrics)
    with MetricsCallback("other", log_dir=tmp_path, backends=[]) as other:
        other.flush()  # this thread's programs, and what they sent
    assert len(memory.records) == 1
    assert "run `run` is closed, yet its program goes on logging" in caplog.text


# ---- threads and processes ----------------------------------------------------------------------


def test_the_first_record_arrives_while_the_program_still_runs(tmp_path: Path) -> None:
    seen = []

    @final
    class First:
        arrived = threading.Event()

        @hookimpl
        def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
            seen.extend(record.values["train/i"] for record in records)
            self.arrived.set()

    first = First()

    def wait_for_it(i: np.ndarray) -> np.ndarray:
        # the program can't go on, so not end, before the first record is with the backend
        return np.asarray(i == 0 or first.arrived.wait(60))

    @jax.jit
    def train(metrics: MetricsCallback) -> jax.Array:
        def turn(state: MetricsState, i: jax.Array) -> tuple[MetricsState, jax.Array]:
            ok = jax.pure_callback(wait_for_it, jax.ShapeDtypeStruct((), bool), i)
            return metrics.on_iteration(state, training_log={"i": i + 0 * ok}), ok

        return jax.lax.scan(turn, metrics.init(1), jnp.arange(3))[1]

    with MetricsCallback(log_dir=tmp_path, backends=first) as metrics:
        assert train(metrics).tolist() == [True, True, True]
    assert seen == [0, 1, 2]


@pytest.mark.long
def test_constructing_it_initialises_no_backend_of_jax(tmp_path: Path) -> None:
    program = f"""
        import metriplex
        from jax._src import xla_bridge
        assert not xla_bridge.backends_are_initialized(), "by the import"
        import numpy as np, optax
        metrics = metriplex.MetricsCallback(
            log_dir={str(tmp_path)!r}, learning_rate=np.float32(0.5), hparams={{"seed": 1}}
        )
        metriplex.callback_with_numpy_wrapper(print)
        metriplex.JITSummaryWriter({str(tmp_path / "w")!r})
        assert not xla_bridge.backends_are_initialized(), "by construction"
        metrics.log(1, {{"x": 1.0}})
        metrics.log_text("a", "b")
        assert not xla_bridge.backends_are_initialized(), "by logging on the host"
        print("fine")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.stdout, result.stderr) == ("fine\n", "")
