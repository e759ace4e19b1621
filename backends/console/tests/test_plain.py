from __future__ import annotations

import io
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from metriplex import Scalars
from metriplex_console import ConsoleBackend


def lines_of(file: io.StringIO) -> list[str]:
    return file.getvalue().splitlines()


def test_a_line_a_step_and_one_for_the_end(run):
    file = io.StringIO()
    backend = ConsoleBackend(file=file, every_secs=0)
    backend.open_run(run)
    backend.log_hparams(run, {"lr": 3e-4, "env": "CartPole", "note": "try 2", "norm": True})
    values = {"episode/return": 21.5, "train/learning_rate": math.nan, "n": 1234567}
    backend.log_scalars(run, [Scalars(512, values, 0), Scalars(2**33, {"a/loss": 0.1}, 1)])
    backend.close_run(run, "finished")
    lines = lines_of(file)
    assert lines[:4] == [
        f"run=ppo_cartpole directory={run.directory}",
        "hparams lr=0.0003 env=CartPole note='try 2' norm=True",
        "step=512 iteration=0 episode/return=21.5 train/learning_rate=unknown n=1234567",
        "step=8589934592 iteration=1 a/loss=0.1",
    ]
    assert lines[4].startswith("status=finished step=8589934592 elapsed=")
    assert len(lines) == 5


def test_between_lines_records_wait_and_none_of_their_tags_is_lost(run):
    file = io.StringIO()
    backend = ConsoleBackend(file=file, every_secs=3600)
    assert backend.flush_secs == 3600
    backend.open_run(run)
    for i in range(1000):
        backend.log_scalars(run, [Scalars(i, {"x": i} | ({"seldom": 1} if i == 5 else {}), i)])
        backend.flush(run)
    assert lines_of(file)[1:] == ["step=0 iteration=0 x=0"]
    backend.close_run(run, "failed")
    assert lines_of(file)[2] == "step=999 iteration=999 x=999 seldom=1"
    assert lines_of(file)[3].startswith("status=failed step=999 ")


def test_lanes_become_one_line(run):
    file = io.StringIO()
    backend = ConsoleBackend(file=file, every_secs=0)
    backend.open_run(run)
    for step in (10, 20):
        records = [Scalars(step, {"x": float(lane), "n": 7}, 0, lane) for lane in range(3)]
        backend.log_scalars(run, records)
    assert lines_of(file)[1:] == [
        f"step={step} iteration=0 lanes=3 x=1+-0.816497 n=7+-0" for step in (10, 20)
    ]
    backend.close_run(run, "finished")


def test_control_characters_and_poor_encodings_are_escaped(run):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    backend = ConsoleBackend(file=file, every_secs=0)
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(1, {"θ\x1b[2J\n": 1.0})])
    assert raw.getvalue().splitlines()[1] == b"step=1 \\u03b8\\x1b[2J\\n=1"
    backend.close_run(run, "finished")


def test_two_runs_say_whose_line_it_is(run):
    file = io.StringIO()
    backend = ConsoleBackend(file=file, every_secs=0)
    other = replace(run, id="other", name="dqn")
    for each in (run, other):
        backend.open_run(each)
    for each in (run, other):
        backend.log_scalars(each, [Scalars(1, {"x": 1})])
    backend.close_run(run, "finished")
    backend.log_scalars(other, [Scalars(2, {"x": 2})])
    backend.close_run(other, "finished")
    lines = lines_of(file)
    assert lines[2:4] == ["run=ppo_cartpole step=1 x=1", "run=dqn step=1 x=1"]
    assert lines[5] == "step=2 x=2"


def test_a_full_disk_is_an_error_and_the_line_is_printed_once_there_is_room(run, monkeypatch):
    class Filling(io.StringIO):
        full = False

        def flush(self) -> None:
            if self.full:
                Path("/dev/full").write_text("x")

    file = Filling()
    backend = ConsoleBackend(file=file, every_secs=0)
    backend.open_run(run)
    file.full = True
    with pytest.raises(OSError, match="No space left"):
        backend.log_scalars(run, [Scalars(1, {"x": 1.0})])
    file.full = False
    backend.log_scalars(run, [Scalars(1, {"x": 1.0})])
    assert lines_of(file)[-1] == "step=1 x=1"
    backend.close_run(run, "finished")


def test_a_pipe_gets_lines_without_escape_codes_and_stdout_stays_the_users(prologue):
    source = prologue + (
        "b = ConsoleBackend(every_secs=0); r = make_run()\n"
        "on_worker(b.open_run, r); print('mine')\n"
        "for i in range(3): on_worker(b.log_scalars, r, [record(i)])\n"
        "on_worker(b.close_run, r, 'finished')\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert done.stdout == b"mine\n"
    assert b"\x1b" not in done.stderr
    lines = done.stderr.decode().splitlines()
    assert lines[1:4] == [
        f"step={100 * i} iteration={i - 1} episode/return={i - 1} a/loss=0.25 b/loss=0.75"
        for i in (1, 2, 3)
    ]
