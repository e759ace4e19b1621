"""Names and hyper-parameters of lanes, from the user to the backends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from memory import host_calls, logging_to_memory
from metriplex import ConfigurationError, Lane, MetricsCallback, RunInfo, hookimpl
from metriplex.bridge import receiver
from metriplex.run.lanes import make_lanes

if TYPE_CHECKING:
    from pathlib import Path

RATES = np.array([0.5, 0.25])
SEEDS = np.arange(3)


def test_lanes_are_not_described_by_default() -> None:
    assert make_lanes(None, None) == ()


def test_hparams_of_one_axis_go_to_lanes_with_default_names() -> None:
    lanes = make_lanes({"lr": jnp.array([0.5, 0.25]), "anneal": [True, False]}, None)
    assert lanes == (
        Lane("seed_000", {"lr": 0.5, "anneal": True}),
        Lane("seed_001", {"lr": 0.25, "anneal": False}),
    )
    assert [type(value) for value in lanes[0].hparams.values()] == [float, bool]


def test_nested_axes_are_flattened_outermost_first_and_may_broadcast() -> None:
    whole = make_lanes(
        {"lr": np.repeat(RATES[:, None], 3, 1), "seed": np.tile(SEEDS, (2, 1))}, None
    )
    assert whole == make_lanes({"lr": RATES[:, None], "seed": SEEDS}, None)
    assert [tuple(lane.hparams.values()) for lane in whole] == [
        *[(0.5, 0), (0.5, 1), (0.5, 2), (0.25, 0), (0.25, 1), (0.25, 2)]
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["adam", "sgd"], "adam"),
        (jnp.array([1.5, 2.5], jnp.bfloat16), 1.5),
        (np.array([2**63, 1], np.uint64), 2**63),
        ((1, 2), 1),
    ],
)
def test_values_become_what_backends_store(values: Any, expected: Any) -> None:
    assert make_lanes({"x": values}, None)[0].hparams == {"x": expected}


def test_lanes_may_have_names_alone_or_both() -> None:
    assert make_lanes(None, ["slow", "fast"]) == (Lane("slow"), Lane("fast"))
    assert make_lanes({"lr": RATES}, ["slow", "fast"])[1] == Lane("fast", {"lr": 0.25})


def test_a_run_names_every_lane() -> None:
    run = RunInfo("0f", "walk", None, 0.0, lanes=make_lanes(None, ["slow"]))  # ty: ignore[invalid-argument-type]
    assert [run.lane_name(lane) for lane in (0, 1)] == ["slow", "seed_001"]


@pytest.mark.parametrize(
    ("hparams", "names", "message"),
    [
        ({}, None, r"`lanes` must be a mapping .* got \{\}"),
        ([0.5], None, r"`lanes` must be a mapping"),
        ({"": RATES}, None, "names in `lanes` must be strings"),
        ({"lr": 0.5}, None, r"arrays of one shape.*`lr` \[\]"),
        ({"lr": RATES, "seed": SEEDS}, None, r"`lr` \[2\], `seed` \[3\]"),
        ({"f": [print, print]}, None, "numbers, bools or strings; got list for `f`"),
        ({"key": jax.random.split(jax.random.key(0))}, None, "pass the seeds"),
        ({"lr": RATES}, ["a", "b", "c"], "values for 2 lanes, and `lane_names` has 3"),
        (None, "ab", "sequence of names"),
        (None, [], "sequence of names"),
        (None, ["a", "A"], "unique; `A` is there twice"),
        (None, ["a", "Journal"], "`Journal` is a directory of the run itself"),
        (None, ["a/b"], r"names of directories: .*'a/b' contains '/'"),
        (None, [3], "must be a string"),
    ],
)
def test_invalid_descriptions_of_lanes_raise(hparams: Any, names: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_lanes(hparams, names)


def train(metrics: MetricsCallback, rate: jax.Array) -> None:
    state = metrics.init(1)
    metrics.on_iteration(state, training_log={"rate": rate})


class Listener:
    run: RunInfo
    hparams: Any = None

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Any) -> None:
        self.run, self.hparams = run, hparams


def test_backends_get_the_lanes_even_if_the_run_has_no_hparams(tmp_path: Path) -> None:
    listener = Listener()
    with MetricsCallback(log_dir=tmp_path, backends=listener, lanes={"lr": RATES}):
        pass
    assert listener.hparams == {}
    assert listener.run.lanes == make_lanes({"lr": RATES}, None)


def test_a_lane_s_name_and_hparams_are_in_its_own_tensorboard_run(tmp_path: Path) -> None:
    lanes = {"lr": RATES, "kind": ["a", "b"]}
    with MetricsCallback(
        "run",
        log_dir=tmp_path,
        backends="tensorboard",
        hparams={"gamma": 0.5, "lr": 9},
        lanes=lanes,
        lane_names=["slow", "fast"],
    ) as metrics:
        jax.jit(jax.vmap(train, (None, 0)))(metrics, jnp.asarray(RATES))
    folders = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert folders - {"journal"} == {"fast", "slow"}
    assert EventAccumulator(str(tmp_path / "run")).Reload().summary_metadata == {}
    for name, rate, kind in (("slow", 0.5, "a"), ("fast", 0.25, "b")):
        events = EventAccumulator(str(tmp_path / "run" / name)).Reload()
        assert [event.value for event in events.Scalars("train/rate")] == [rate]
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        hparams = metadata.parse_session_start_info_plugin_data(content).hparams
        values = {name: one.number_value or one.string_value for name, one in hparams.items()}
        assert values == {"gamma": 0.5, "lr": rate, "kind": kind}
        content = events.summary_metadata["_hparams_/session_end_info"].plugin_data.content
        assert metadata.parse_session_end_info_plugin_data(content).status == 1  # success


def test_256_lanes_with_statistics_still_make_one_host_call_an_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = host_calls(monkeypatch)

    def program(metrics: MetricsCallback, x: jax.Array) -> None:
        def iterate(state: Any, index: jax.Array) -> Any:
            return metrics.on_iteration(state, training_log={"x": x * index}), None

        jax.lax.scan(iterate, metrics.init(1), jnp.arange(3))

    lanes = {"x": np.arange(256)}
    with logging_to_memory(tmp_path, lanes=lanes, aggregate=True) as (metrics, memory):
        jax.jit(jax.vmap(program, (None, 0)))(metrics, jnp.arange(256))
    assert len(blocks) == 3
    assert len(memory.records) == 3 * 256 + 3
    for name, factor in {"mean": 127.5, "max": 255, "median": 127.5, "iqm": 127.5}.items():
        assert memory.values(f"aggregate/train/x/{name}") == [0, factor, 2 * factor]
    assert memory.values("aggregate/train/x/std")[1] == pytest.approx(np.arange(256).std())


# ---- as many as the program has -----------------------------------------------------------------


def iterate(metrics: MetricsCallback, x: jax.Array, lane: jax.Array | None = None) -> None:
    def body(state: Any, index: jax.Array) -> Any:
        return metrics.on_iteration(state, training_log={"x": x + index}), None

    state, _ = jax.lax.scan(
        body, metrics.on_training_start(metrics.init(1, lane=lane)), jnp.arange(3)
    )
    metrics.on_training_end(state)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("count", "rest"),
    [
        (3, "lanes from `d` on stay empty; give one value and one name a lane"),
        (8, "lanes from `seed_004` on have no name and no hyper-parameters of their own; give one"),
    ],
)
def test_a_wrong_number_of_lanes_warns_once_and_drops_no_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, rest: str
) -> None:
    mean = (count - 1) / 2
    options: dict[str, Any] = {"lanes": {"lr": np.arange(4.0)}, "lane_names": list("abcd")}
    with logging_to_memory(tmp_path, aggregate=True, **options) as (metrics, memory):
        jax.jit(jax.vmap(iterate, (None, 0)))(metrics, jnp.arange(float(count)))
        jax.effects_barrier()
        receiver.wait()
        (warning,) = warnings_of(caplog)  # before the run is closed
        metrics.run.flush(60)  # no waiting call is abandoned
        assert memory.values("aggregate/train/x/mean") == [mean, mean + 1]
    assert warning.startswith(
        f"run `run`: its program has {count} lane(s), while `lanes` or `lane_names` describe 4, "
        f"`a` to `d`: {rest}"
    )
    assert warnings_of(caplog) == [warning]
    assert [memory.values("train/x", lane) for lane in range(count)] == [
        [lane, lane + 1, lane + 2] for lane in range(count)
    ]
    assert memory.values("aggregate/train/x/mean") == [mean, mean + 1, mean + 2]


@pytest.mark.parametrize("names", [4, 8, 9])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.long
def test_lanes_that_arrive_in_one_call_per_device_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: int, by_hand: bool
) -> None:
    options: dict[str, Any] = {} if by_hand else {"axis_name": ()}
    options |= {"lane_names": list("abcdefghi")[:names], "aggregate": True}
    with logging_to_memory(tmp_path, **options) as (metrics, memory):

        def shard(index: jax.Array) -> jax.Array:
            iterate(metrics, index[0].astype(float), lane=index[0] if by_hand else None)
            return index

        mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
        jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=P("x"), out_specs=P("x")))(jnp.arange(8))
        metrics.flush()
        early = warnings_of(caplog)
    assert [memory.values("train/x", lane)[-1] for lane in range(8)] == [x + 2 for x in range(8)]
    if names == 8:
        assert warnings_of(caplog) == []
        return
    (warning,) = warnings_of(caplog)
    if by_hand:  # the number of lanes is unknown, so that only too many lanes show at once
        assert early == ([warning] if names < 8 else [])
        assert re.search(r"has \d lanes or more, while" if names < 8 else "has 8 lane", warning)
    else:
        assert early == [warning]
        assert "its program has 8 lane(s), while" in warning
        assert memory.values("aggregate/train/x/mean") == [3.5, 4.5, 5.5]


def test_a_program_without_lanes_warns_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with logging_to_memory(tmp_path, lane_names=["a", "b"]) as (metrics, memory):
        jax.jit(iterate)(metrics, jnp.float32(1))
    (warning,) = warnings_of(caplog)
    assert (
        "its program has no lanes (nothing is vmapped, or its lanes are identical), while"
        in warning
    )
    assert "lanes from `a` on stay empty" in warning
    assert memory.values("train/x") == [1, 2, 3]


def test_a_record_of_one_of_two_axes_is_no_wrong_number_of_lanes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def program(metrics: MetricsCallback, rate: jax.Array, seed: jax.Array) -> None:
        metrics.log(0, {"rate": rate})  # of the outer axis only
        iterate(metrics, rate + seed)

    inner = jax.vmap(program, (None, None, 0))
    lanes = {"lr": RATES[:, None], "seed": SEEDS}
    with logging_to_memory(tmp_path, lanes=lanes) as (metrics, memory):
        jax.jit(jax.vmap(inner, (None, 0, None)))(metrics, jnp.asarray(RATES), jnp.arange(3))
    assert warnings_of(caplog) == []
    assert memory.values("train/x", 5) == [2.25, 3.25, 4.25]


def test_a_run_that_logged_nothing_or_failed_does_not_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with logging_to_memory(tmp_path / "unused", lane_names=["a"]):
        pass

    def fail() -> None:
        with logging_to_memory(tmp_path / "failed", lane_names=["a"]) as (metrics, _):
            iterate(metrics, jnp.float32(1))
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert warnings_of(caplog) == []
