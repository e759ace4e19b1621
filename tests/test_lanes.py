"""Lanes that are named and have hyper-parameters of their own, from the user to the backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from memory import host_calls, logging_to_memory
from metriplex import ConfigurationError, Lane, MetricsCallback, RunInfo, hookimpl
from metriplex.lanes import make_lanes

if TYPE_CHECKING:
    from pathlib import Path

RATES = np.array([0.5, 0.25])
SEEDS = np.arange(3)


def test_nothing_is_described_by_default() -> None:
    assert make_lanes(None, None) == ()


def test_hparams_of_one_axis_go_to_lanes_that_are_called_as_ever() -> None:
    lanes = make_lanes({"lr": jnp.array([0.5, 0.25]), "anneal": [True, False]}, None)
    assert lanes == (
        Lane("seed_000", {"lr": 0.5, "anneal": True}),
        Lane("seed_001", {"lr": 0.25, "anneal": False}),
    )
    assert [type(value) for value in lanes[0].hparams.values()] == [float, bool]


def test_nested_axes_are_flattened_the_outermost_first_and_may_broadcast() -> None:
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
def test_what_does_not_describe_lanes_is_refused(hparams: Any, names: Any, message: str) -> None:
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


def test_backends_are_told_and_asked_for_hparams_even_if_the_run_has_none(tmp_path: Path) -> None:
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
