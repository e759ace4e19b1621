"""Runs that are continued: one value a step in every backend, whatever was logged beyond."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from memory import Memory
from metriplex import ConfigurationError, MetricsCallback, MetricsState, Scalars
from metriplex.journal import Resume, read_entries, superseded
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.run.opening import next_iteration

if TYPE_CHECKING:
    from pathlib import Path

LONG = 60.0
ENVS = 4


def body(metrics: MetricsCallback, state: MetricsState, value: jax.Array) -> MetricsState:
    state = metrics.on_step(state, jnp.ones(ENVS), jnp.ones(ENVS, bool))
    return metrics.on_iteration(state, training_log={"v": value})


@jax.jit
def train(metrics: MetricsCallback, values: jax.Array) -> MetricsState:
    state = metrics.on_training_start(metrics.init(ENVS))
    return jax.lax.scan(lambda s, v: (body(metrics, s, v), None), state, values)[0]


@jax.jit
def go_on(metrics: MetricsCallback, state: MetricsState, values: jax.Array) -> MetricsState:
    return jax.lax.scan(lambda s, v: (body(metrics, s, v), None), state, values)[0]


def kept(directory: Path) -> list[tuple[int, int | None, Any]]:
    """Step, iteration and value of what is in the journal and not superseded."""
    skip = superseded(directory)
    return [
        (entry.record.step, entry.record.iteration, entry.record.values["train/v"])
        for entry in read_entries(directory)
        if isinstance(entry.record, Scalars) and not skip(entry)
    ]


def curve(directory: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/v")]


def test_a_run_goes_on_at_the_step_of_the_checkpoint_with_one_value_a_step(tmp_path: Path) -> None:
    with MetricsCallback("run", log_dir=tmp_path, total_steps=24) as first:
        train(first, jnp.arange(5.0))
    memory = Memory()
    with MetricsCallback(
        log_dir=tmp_path, resume="run", resume_step=12, backends=["tensorboard", memory]
    ) as second:
        train(second, jnp.arange(30.0, 33.0))
        assert second.directory == first.directory == tmp_path / "run"
        info, known = second.run.info, first.run.info
    assert (info, info.name, info.start_time) == (known, "run", known.start_time)
    assert (info.total_steps, info.resume_step) == (24, 13)
    expected = [(4, 0.0), (8, 1.0), (12, 2.0), (16, 30.0), (20, 31.0), (24, 32.0)]
    assert curve(second.directory) == expected
    assert kept(second.directory) == [
        (step, index, value) for index, (step, value) in enumerate(expected)
    ]
    assert memory.steps() == [16, 20, 24]
    assert [entry.record for entry in read_entries(second.directory)].count(Resume(13)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_a_step_it_goes_on_after_the_newest(tmp_path: Path) -> None:
    with MetricsCallback("run", log_dir=tmp_path, backends=[]) as metrics:
        train(metrics, jnp.arange(2.0))
    for turn in (1, 2):
        with MetricsCallback(resume=tmp_path / "run", backends=[]) as metrics:
            # A backend may hold later steps that the journal lacks: these are superseded.
            assert metrics.run.info.resume_step == 4 + 4 * turn + 1
            train(metrics, jnp.asarray([10.0 * turn]))
    assert kept(tmp_path / "run") == [(4, 0, 0.0), (8, 1, 1.0), (12, 2, 10.0), (16, 3, 20.0)]


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "new"])
def test_a_state_of_a_checkpoint_is_live_from_its_first_row_on(
    tmp_path: Path, resumed: bool
) -> None:
    """Its rows do not count from 0, and nobody waits for those before them."""
    length = 2 if resumed else 300  # a new run trusts a long history only
    with MetricsCallback("run", log_dir=tmp_path, backends=[], queue_size=8) as first:
        checkpoint = train(first, jnp.zeros(length))
    assert int(checkpoint.sequence) == length
    memory = Memory()
    options: dict[str, Any] = {"resume": "run"} if resumed else {}
    with MetricsCallback(log_dir=tmp_path, backends=memory, **options) as second:
        state = go_on(second, checkpoint, jnp.asarray([1.0]))
        assert memory.arrived.wait(LONG)
        go_on(second, state, jnp.asarray([2.0, 3.0]))
    assert memory.values("train/v") == [1.0, 2.0, 3.0]
    assert memory.steps() == [ENVS * (length + i) for i in (1, 2, 3)]


def test_lanes_go_on_too(tmp_path: Path) -> None:
    lanes = jnp.arange(3.0)
    values = lanes[:, None] + jnp.zeros((3, 2))
    both = jax.jit(jax.vmap(train, in_axes=(None, 0)))
    with MetricsCallback("run", log_dir=tmp_path, backends=[]) as metrics:
        checkpoint = both(metrics, values)
    memory = Memory()
    with MetricsCallback(log_dir=tmp_path, resume="run", resume_step=4, backends=memory) as again:
        both(again, values + 10)
    assert memory.lanes == [0, 1, 2]
    for lane in memory.lanes:
        assert memory.steps(lane) == [8, 12]
    restored = Memory()
    with MetricsCallback(log_dir=tmp_path, resume="run", resume_step=8, backends=restored) as third:
        jax.jit(jax.vmap(go_on, in_axes=(None, 0, 0)))(third, checkpoint, values + 20)
    for lane in memory.lanes:
        assert restored.steps(lane) == [12, 16]
        assert restored.values("train/v", lane) == [20.0 + (lane or 0)] * 2
    skip = superseded(tmp_path / "run")
    found = {
        lane: [
            entry.record.step
            for entry in read_entries(tmp_path / "run")
            if isinstance(entry.record, Scalars) and entry.record.lane == lane and not skip(entry)
        ]
        for lane in range(3)
    }
    assert found == {lane: [4, 8, 12, 16] for lane in range(3)}


def log(metrics: MetricsCallback, *steps: int) -> None:
    for step in steps:
        metrics.log(step, {"v": float(step)})


def test_a_backend_gets_what_it_missed_before_and_a_new_one_what_comes(tmp_path: Path) -> None:
    with MetricsCallback("run", log_dir=tmp_path, backends=[]) as metrics:
        log(metrics, 1, 2, 3, 4)
    (tmp_path / "run" / "journal").joinpath("memory.ack").write_text(
        json.dumps({"acked": 1, "missed": []})
    )
    old, new = Memory(), Memory()
    new.name = "other"  # ty: ignore[missing-attribute] - a backend may have a name
    with MetricsCallback(
        log_dir=tmp_path, resume="run", resume_step=3, backends=[old, new]
    ) as again:
        log(again, 4, 5)
    assert old.steps() == [2, 3, 4, 5]  # the first 4 is superseded
    assert new.steps() == [4, 5]
    assert load_ack(again.directory, "memory") == Ack(ack_path(again.directory, "memory"), 8)
    other = load_ack(again.directory, "other")
    assert other is not None
    assert (other.acked, other.missed) == (8, [(0, 6)])


def test_what_the_journal_lost_in_a_power_cut_counts_as_known_to_nobody(tmp_path: Path) -> None:
    memory = Memory()
    with MetricsCallback("run", log_dir=tmp_path, backends=memory) as metrics:
        log(metrics, 1, 2, 3, 4, 5)
    (segment,) = (tmp_path / "run" / "journal").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:4]))  # the header and three records
    with MetricsCallback(log_dir=tmp_path, resume="run", backends=[]) as again:
        log(again, 6)
    ack = load_ack(again.directory, "memory")
    assert ack is not None
    assert ack.acked == 4  # three records, and the entry of the resume
    assert [r.record.step for r in read_entries(again.directory) if isinstance(r.record, Scalars)]


def test_a_run_is_open_once(tmp_path: Path) -> None:
    with (
        MetricsCallback("run", log_dir=tmp_path, backends=[]) as metrics,
        pytest.raises(ConfigurationError, match=r"another process writes the journal in '.*run/"),
    ):
        MetricsCallback(resume=metrics.directory, backends=[])
    MetricsCallback(resume=metrics.directory, backends=[]).close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": "nothing"}, "there is no run 'nothing' to resume, neither under `log_dir`"),
        ({"resume": "empty"}, "there is no journal in '.*empty': give the directory of a run"),
        ({"resume": ""}, "`resume` must be a run's directory, or its name"),
        ({"resume": 7}, "`resume` must be a run's directory, or its name under `log_dir`; got 7"),
        ({"resume": "empty", "name": "new"}, "keeps its name; got `name='new'` beside `resume`"),
        ({"resume": "empty", "journal": False}, "resumed by its journal; got `journal=False`"),
        ({"resume": "empty", "resume_step": -1}, "`resume_step` must be an int of at least 0"),
        ({"resume_step": 3}, "`resume_step` is 3, and nothing is resumed: pass `resume=` too"),
    ],
)
def test_what_can_not_be_resumed(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=message):
        MetricsCallback(log_dir=tmp_path, backends=[], **options)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_damaged_state_of_a_backend_leaves_the_run_free(tmp_path: Path) -> None:
    with MetricsCallback("run", log_dir=tmp_path, backends=[]) as metrics:
        log(metrics, 1)
    damaged = ack_path(metrics.directory, "memory")
    damaged.write_text("{")
    with pytest.raises(ConfigurationError, match=r"memory.ack` is damaged"):
        MetricsCallback(log_dir=tmp_path, resume="run", backends=[])
    damaged.unlink()
    MetricsCallback(log_dir=tmp_path, resume="run", backends=[]).close()


def test_the_next_iteration_is_found_from_the_end_backwards(tmp_path: Path) -> None:
    memory = Memory()
    with MetricsCallback("run", log_dir=tmp_path, backends=memory) as metrics:
        train(metrics, jnp.arange(5.0))
        metrics.flush()
        log(metrics, 100, 101)  # of no iteration
    end = 7
    found = [next_iteration(metrics.directory, end, step) for step in (0, 4, 11, 12, 20, 1000)]
    assert found == [0, 1, 2, 3, 5, 5]
