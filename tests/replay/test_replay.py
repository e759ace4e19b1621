"""Replays: to backends that were unreachable, and to backends that never saw the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest

from memory import Memory
from metriplex import ConfigurationError, MetricsCallback, MetricsState, RunInfo, Scalars, hookimpl
from metriplex.commands.main import main
from metriplex.commands.replay import parse_backends
from metriplex.delivery.sender import FAILURES
from metriplex.event_files.replay import replay_events
from metriplex.journal import JournalWriter
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.plugins.backends import Backend
from metriplex.replay.journal import JournalSource, replay_run
from metriplex.replay.send import send

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@final
class Remote:
    """A service that keeps steps, and may refuse some of them.

    Attributes:
        stored: Steps, in the order in which they came.
        refuse: Step to the error that it raises.
    """

    flush_secs = 1e-9

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.refuse: dict[int, BaseException] = {}
        self.opened: list[RunInfo] = []
        self.statuses: list[str] = []

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self.opened.append(run)

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        for record in records:
            if (error := self.refuse.get(record.step)) is not None:
                raise error
        self.stored += [record.step for record in records]

    @hookimpl
    def flush(self) -> None:
        pass

    @hookimpl
    def close_run(self, status: str) -> None:
        self.statuses.append(status)


def make_run(log_dir: Path, *steps: int, backends: object = (), text: bool = False) -> Path:
    with MetricsCallback("run", log_dir=log_dir, backends=backends, hparams={"lr": 0.1}) as metrics:
        for step in steps:
            metrics.log(step, {"a": float(step)})
            if text:  # so that each step is a call of its own
                metrics.log_text("note", f"at {step}", step=step)
    return metrics.directory


def state(run_dir: Path, name: str = "remote") -> tuple[int, list[tuple[int, int]]]:
    ack = load_ack(run_dir, name)
    assert ack is not None
    return ack.acked, ack.missed


def test_a_backend_that_never_saw_the_run_gets_all_of_it_and_then_nothing(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *range(2500))
    with MetricsCallback(log_dir=tmp_path, resume="run", resume_step=2400, backends=[]) as metrics:
        metrics.log(2401, {"a": -1.0})
        metrics.log_image("picture", np.zeros((2, 3, 3), np.uint8), step=2401)
    told: list[tuple[str, int, int]] = []
    memory = Memory()
    (result,) = replay_run(run_dir, memory, progress=lambda *seen: told.append(seen))
    assert (result.backend, result.sent, result.left, result.error) == ("memory", 2404, 0, None)
    assert memory.steps() == list(range(2402))
    assert memory.values("a")[-1] == -1.0
    assert memory.hparams == [{"lr": 0.1}]
    assert len(memory.media) == 1
    assert (memory.calls[0], memory.calls[-2:]) == ("open_run", ["flush", "close_run"])
    assert memory.status == "finished"
    assert told[-1] == ("memory", told[-1][2], told[-1][2])
    again = Memory()
    (result,) = replay_run(run_dir, again)
    assert (result.sent, result.left, again.calls) == (0, 0, [])
    (result,) = replay_run(run_dir, again, everything=True)
    assert (result.sent, again.steps()) == (2404, memory.steps())


def test_what_was_missed_is_sent_in_order_and_only_that(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *range(1, 11))  # record n has step n; hparams are record 0
    Ack(ack_path(run_dir, "remote"), 7, [(2, 3), (5, 6)]).save()
    remote = Remote()
    (result,) = replay_run(run_dir, remote)
    assert remote.stored == [2, 5, 7, 8, 9, 10]
    assert (result.sent, result.left) == (6, 0)
    assert state(run_dir) == (12, [])  # the last is its close
    (info,) = remote.opened
    assert (info.name, info.resume_step, remote.statuses) == ("run", None, ["finished"])


def test_a_call_that_fails_for_good_is_left_and_the_rest_is_sent(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 1, 2, 3, text=True)
    remote = Remote()
    remote.refuse = {2: ValueError("no")}
    (result,) = replay_run(run_dir, remote)
    assert (remote.stored, result.sent, result.left) == ([1, 3], 2, 1)
    assert result.error == "ValueError: no"
    assert state(run_dir) == (8, [(3, 4)])
    remote.refuse = {}
    (result,) = replay_run(run_dir, remote)
    assert (remote.stored, result.left) == ([1, 3, 2], 0)


def test_a_backend_that_keeps_failing_is_given_up_and_goes_on_there_later(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *range(1, 8), text=True)
    remote = Remote()
    remote.refuse = {step: ValueError("no") for step in range(3, 9)}
    (result,) = replay_run(run_dir, remote)
    assert remote.stored == [1, 2]
    assert result.left > FAILURES
    assert remote.statuses == ["finished"]
    remote.refuse = {}
    (result,) = replay_run(run_dir, remote)
    assert (remote.stored, result.left) == (list(range(1, 8)), 0)


def test_an_outage_is_waited_out_and_one_that_lasts_is_left(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 1, 2, 3, text=True)
    remote = Remote()
    remote.refuse = {2: ConnectionError("away")}
    source = JournalSource(run_dir)
    try:
        result = send(source, Backend("remote", remote), retry_seconds=(0.0, 0.0))
        assert (remote.stored, result.error) == ([1], "ConnectionError: away")
        assert result.left > 0
        remote.refuse = {}
        result = send(source, Backend("remote", remote), retry_seconds=(0.0,))
        assert (remote.stored, result.left) == ([1, 2, 3], 0)
    finally:
        source.close()


def test_ctrl_c_costs_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *range(1, 6), text=True)
    remote = Remote()
    remote.refuse = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        replay_run(run_dir, remote)
    assert remote.stored == [1, 2, 3]
    remote.refuse = {}
    replay_run(run_dir, remote)
    assert remote.stored == [1, 2, 3, 4, 5]
    assert remote.statuses == ["finished"] * 2


def test_ctrl_c_before_anything_is_sent_acknowledges_nothing(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, *range(1, 11))
    missed = [(2, 3), (5, 6)]
    Ack(ack_path(run_dir, "remote"), 7, missed).save()
    remote = Remote()
    remote.refuse = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        replay_run(run_dir, remote)
    assert (remote.stored, state(run_dir)) == ([], (7, missed))
    remote.refuse = {5: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        replay_run(run_dir, remote)
    assert (remote.stored, state(run_dir)) == ([2], (7, [(5, 6)]))


def test_a_backend_that_exits_does_not_end_the_replay(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 1, 2, 3, text=True)
    remote = Remote()
    remote.refuse = {2: SystemExit(3)}
    (result,) = replay_run(run_dir, remote)
    assert (remote.stored, result.left, result.error) == ([1, 3], 1, "SystemExit: 3")


def test_an_acknowledgement_that_can_not_be_written_ends_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path, 1, 2, 3, text=True)

    def refuse(self: Ack) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ack, "save", refuse)
    remote = Remote()
    with pytest.raises(ConfigurationError, match=r"remote.ack` can't be written .*No space left"):
        replay_run(run_dir, remote)
    assert (remote.stored, remote.statuses) == ([1], ["finished"])


def test_a_run_that_was_killed_is_interrupted_and_one_that_is_written_is_refused(
    tmp_path: Path,
) -> None:
    info = RunInfo("0f", "run", tmp_path, 0.0)
    writer = JournalWriter(tmp_path, info)
    writer.append(0, [Scalars(1, {"a": 1.0})])
    writer.flush()
    with pytest.raises(ConfigurationError, match="another process writes the journal"):
        replay_run(tmp_path, Remote())
    writer.close()
    remote = Remote()
    replay_run(tmp_path, remote)
    assert (remote.stored, remote.statuses) == ([1], ["interrupted"])


def test_the_command_sends_to_an_installed_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    run_dir = make_run(tmp_path / "logs", 1, 2, 3)
    assert main(["replay", "run", "--to", "tensorboard", "--option", "flush_secs=9"]) == 0
    assert capsys.readouterr().out == "tensorboard: 4 record(s) sent, nothing is left\n"
    events = EventAccumulator(str(run_dir))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(1, 1), (2, 2), (3, 3)]
    assert main(["replay", str(run_dir), "--to", "tensorboard"]) == 0
    assert capsys.readouterr().out == "tensorboard: 0 record(s) sent, nothing is left\n"
    assert main(["replay", "nowhere", "--to", "tensorboard"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["replay", "run", "--to", "no-such"]) == 2
    assert "backend `no-such` is not installed" in capsys.readouterr().err


def test_event_files_of_tensorboard_are_sent_lane_by_lane_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import jax
    import jax.numpy as jnp

    def program(metrics: MetricsCallback, value: jax.Array) -> MetricsState:
        state = metrics.init(1)
        for turn in range(2):
            state = metrics.on_step(state, value[None], jnp.ones(1, bool))
            state = metrics.on_iteration(state, training_log={"v": value + turn})
        return state

    with MetricsCallback("run", log_dir=tmp_path, journal=False) as metrics:
        jax.jit(jax.vmap(program, in_axes=(None, 0)))(metrics, jnp.arange(2.0))
    for expected in (4, 0):
        memory = Memory()
        results = replay_events(tmp_path, memory)
        assert sum(result.sent for _, result in results) == expected
        if expected:
            assert memory.lanes == [0, 1]
            for lane in (0, 1):
                assert memory.values("train/v", lane) == [lane, lane + 1.0]
                assert memory.steps(lane) == [1, 2]
    assert {info.name for info, _ in results} == {"run"}
    assert main(["replay", str(tmp_path), "--from", "tensorboard", "--to", "console"]) == 0
    assert capsys.readouterr().out.count("run: console: ") == 3  # two lanes, and the run's own file
    assert main(["replay", str(tmp_path / "no"), "--from", "tensorboard", "--to", "console"]) == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"a": {}, "b": {}}),
        (["k=1", "b.k=two"], {"a": {"k": 1}, "b": {"k": "two"}}),
        (["a.k=[1.5, true]"], {"a": {"k": [1.5, True]}, "b": {}}),
        (["k=x=y"], {"a": {"k": "x=y"}, "b": {"k": "x=y"}}),
    ],
)
def test_options_from_the_command_line(options: list[str], expected: Any) -> None:
    assert parse_backends(["a", "b"], options) == expected


@pytest.mark.parametrize("option", ["k", "=1", "c.k=1", "a.=1"])
def test_options_that_are_none(option: str) -> None:
    with pytest.raises(ConfigurationError, match="`--option` takes `KEY=VALUE`"):
        parse_backends(["a", "b"], [option])
