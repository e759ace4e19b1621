"""Several real processes of `jax.distributed`: one of them writes, whichever the rows reach."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from metriplex import MetricsCallback, Scalars
from metriplex.journal import Resume, read_entries, read_run, superseded

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("cluster_program.py")
TIMEOUT = 240.0  # less than a process would wait for one that has failed
ENVS, ITERATIONS = 8, 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def cluster(number: int, directory: Path, mode: str) -> Generator[list[subprocess.Popen[str]]]:
    port = str(free_port())
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    processes = []
    for process in range(number):
        command = [sys.executable, PROGRAM, str(process), str(number), port, str(directory), mode]
        with (directory / f"stderr_{process}").open("w") as stderr:
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )
            )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def run(number: int, directory: Path, mode: str) -> list[dict[str, Any]]:
    """Wait for all processes to succeed; return their output."""
    with cluster(number, directory, mode) as processes:
        said = []
        for process in processes:
            output, _ = process.communicate(timeout=TIMEOUT)
            said += [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        for index, process in enumerate(processes):
            assert process.returncode == 0, (directory / f"stderr_{index}").read_text()
    return said


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "lines").read_text().splitlines()]


def iterations(rewards: list[float], lane: int | None = None) -> list[dict[str, Any]]:
    """Return the records of environments with these rewards."""
    mean = sum(rewards) / len(rewards)
    return [
        {
            "lane": lane,
            "step": len(rewards) * (index + 1),
            "episode/return": pytest.approx(mean),
            "episode/length": 1.0,
            "train/loss": mean + index,
        }
        for index in range(ITERATIONS)
    ]


def kept(path: Path) -> list[tuple[int, int | None, Any]]:
    """Step, iteration and loss of what is in the journal and not superseded."""
    skip = superseded(path)
    return [
        (entry.record.step, entry.record.iteration, entry.record.values.get("train/loss"))
        for entry in read_entries(path)
        if isinstance(entry.record, Scalars) and not skip(entry)
    ]


REWARDS = [float(env) for env in range(ENVS)]


@pytest.mark.parametrize("number", [2, 4])
def test_one_process_writes_what_all_have_made(tmp_path: Path, number: int) -> None:
    said = run(number, tmp_path, "everything")
    written = {path.parent.name: path.parent for path in tmp_path.glob("process_*/*/lines") if path}
    last = f"process_{number - 1}"
    (name,) = {one["name"] for one in said if "name" in one}
    assert len({one["id"] for one in said if "id" in one}) == 1

    for run_name in ("jit", "shard_map", "jit_reversed", "shard_map_reversed"):
        assert lines(written[run_name]) == [{"hparams": {"a": 1}}, *iterations(REWARDS)]
        writer = last if run_name.endswith("reversed") else "process_0"
        assert written[run_name].parent.name == writer
    for run_name in ("seeds", "seeds_reversed"):
        found = lines(written[run_name])[1:]
        for lane, reward in enumerate(REWARDS):
            of_lane = [one for one in found if one["lane"] == lane]
            assert of_lane == iterations([reward], lane)
        assert len(found) == ENVS * ITERATIONS

    # Each process has lanes of its own: one has the run's name, the others append theirs.
    assert len([run_name for run_name in written if run_name.startswith("lanes")]) == number
    for lane in range(number):
        paths = [path for path in written.values() if path.parent.name == f"process_{lane}"]
        (path,) = [path for path in paths if path.name.startswith("lanes")]
        assert path.name in ("lanes", f"lanes_process_{lane}")
        share = ENVS // number
        assert lines(path) == iterations(REWARDS[lane * share : (lane + 1) * share], lane)

    # Without rows process 0 writes what the host logs, and after rows the process that has them.
    assert written[name].parent.name == "process_0"
    assert lines(written[name]) == [
        {"lane": None, "step": 7, "a": 0.5},
        {"artifact": "program.py"},
    ]
    after = [*iterations(REWARDS), {"lane": None, "step": 99, "eval": 1.0}]
    assert written["jit_reversed_then_host"].parent.name == last
    assert lines(written["jit_reversed_then_host"]) == after
    delivered = {one["process"]: one["deliveries"] for one in said if "deliveries" in one}
    assert delivered == {p: [4] if p == number - 1 else [] for p in range(number)}

    assert lines(written["again_2"]) == lines(written["again"]) == iterations(REWARDS)
    errors = [one["error"] for one in said if "error" in one]
    assert len(errors) == number
    assert all('with several processes use `"error"`' in error for error in errors)
    assert len(written) == 6 + number + 1 + 1 + 2  # and nobody else has made anything
    assert len(list(tmp_path.glob("process_*/*"))) == len(written)


def test_when_the_writer_dies_nobody_hangs_and_what_it_flushed_is_kept(tmp_path: Path) -> None:
    with cluster(2, tmp_path, "endless") as (other, writer):
        assert writer.stdout is not None
        said = next(line for line in writer.stdout if line.startswith("{"))
        assert json.loads(said) == {"process": 1, "turn": 1}
        writer.send_signal(signal.SIGKILL)
        assert other.wait(TIMEOUT) != 0
    found = lines(tmp_path / "endless")
    assert found[: 2 * ITERATIONS] == iterations(REWARDS) * 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["endless"]

    # A new cluster continues what the killed writer left, at the step of a checkpoint.
    assert run(2, tmp_path, "endless_again") == [{"process": p, "ends": True} for p in (0, 1)]
    later = [{**one, "step": ENVS + one["step"]} for one in iterations(REWARDS)]
    assert lines(tmp_path / "endless")[-ITERATIONS:] == later
    *old, a, b, c = kept(tmp_path / "endless")
    assert [a, b, c] == [(16, 1, 3.5), (24, 2, 4.5), (32, 3, 5.5)]
    assert set(old) == {(ENVS, 0, 3.5)}  # what the killed writer logged beyond is superseded
    assert len(old) >= 2


def test_when_another_process_dies_the_writer_ends_and_has_written(tmp_path: Path) -> None:
    with cluster(2, tmp_path, "endless") as (other, writer):
        assert writer.stdout is not None
        assert next(line for line in writer.stdout if line.startswith("{"))
        other.send_signal(signal.SIGKILL)
        assert writer.wait(TIMEOUT) != 0
    assert lines(tmp_path / "endless")[: 2 * ITERATIONS] == iterations(REWARDS) * 2


def test_processes_that_end_at_different_times(tmp_path: Path) -> None:
    with cluster(2, tmp_path, "early") as (first, second):
        for process in (first, second):
            assert process.stdout is not None
            assert '"closed": true' in next(s for s in process.stdout if s.startswith("{"))
        # The first process has closed its run, and what it logged is there.
        assert lines(tmp_path / "process_0" / "early") == iterations(REWARDS)
        output, _ = second.communicate("go\n", timeout=TIMEOUT)
        assert '"ends": true' in output
        assert (first.wait(TIMEOUT), second.returncode) == (0, 0)
    assert not (tmp_path / "process_1").exists()


def test_a_callback_that_process_0_lacks_is_an_error_that_says_so(tmp_path: Path) -> None:
    (said,) = run(2, tmp_path, "alone")
    assert said["process"] == 1
    assert "number 1 and process 0 has not, in 0.5 s: construct the same callbacks" in said["error"]


def test_a_run_is_continued_by_the_process_that_writes(tmp_path: Path) -> None:
    said = run(2, tmp_path, "first")
    writes = [(one["process"], *one["writes"]) for one in said if "writes" in one]
    assert sorted(writes) == [
        (0, "jit", 1),
        (0, "jit_reversed", 0),
        (1, "jit", 0),
        (1, "jit_reversed", 1),
    ]
    # What the host logged before any row is in the run of the rows, once, and makes no other one.
    names = ["jit", "jit_reversed", *sorted(path.name for path in tmp_path.glob("lanes*"))]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(names)
    host = [{"lane": None, "step": 0, "before": 1.0}, {"artifact": "program.py"}]
    for name in ("jit", "jit_reversed"):
        assert lines(tmp_path / name) == [{"hparams": {"a": 1}}, *host, *iterations(REWARDS)]
        copied = tmp_path / name / "artifacts" / "step_0" / "program.py"
        assert copied.read_bytes() == PROGRAM.read_bytes()
    before = {name: len(lines(tmp_path / name)) for name in names}
    known = {name: read_run(tmp_path / name) for name in names}

    (tmp_path / "empty").mkdir()
    said = run(2, tmp_path, "again")
    for name in ("jit", "jit_reversed"):
        path = tmp_path / name
        later = lines(path)[before[name] :]
        assert [(one["step"], one["train/loss"]) for one in later] == [
            (ENVS * i, 3.5 + j) for i, j in zip((3, 4, 5, 6, 7, 8), (0, 1, 2) * 2, strict=True)
        ]
        losses = [3.5, 4.5, *(3.5, 4.5, 5.5) * 2]
        scalars = [(ENVS * (i + 1), i, loss) for i, loss in enumerate(losses)]
        assert kept(path) == [(0, None, None), *scalars]
        resumes = [e.record for e in read_entries(path) if isinstance(e.record, Resume)]
        assert resumes == [Resume(2 * ENVS + 1), Resume(5 * ENVS + 1)]
        info = [known[name].id, name, 99, str(path)]
        assert [one["process"] for one in said if one.get("info") == info] == [0, 0, 1, 1]
    places = [one["place"] for one in said if "place" in one]
    assert places == [[2 * ENVS, 2], [5 * ENVS, 5]] * 4

    # Each process continues the lanes that it had.
    share = ENVS // 2
    assert [path.name for path in sorted(tmp_path.glob("lanes*"))] == names[2:]
    for name in names[2:]:
        old, later = lines(tmp_path / name)[: before[name]], lines(tmp_path / name)[before[name] :]
        (lane,) = {one["lane"] for one in old}
        rewards = REWARDS[lane * share : (lane + 1) * share]
        assert later == [
            {**one, "step": one["step"] + 2 * share} for one in iterations(rewards, lane)
        ]
        assert [step for step, *_ in kept(tmp_path / name)] == [4, 8, 12, 16, 20]

    errors = [(one["error"], one["process"]) for one in said if "error" in one]
    first, second = [[e for e, process in errors if process == p] for p in (0, 1)]
    assert first == second
    assert f"there is no run 'nothing' to resume, neither under `log_dir` '{tmp_path}'" in first[0]
    assert f"there is no journal in '{tmp_path / 'empty'}'" in first[1]


def test_a_run_that_is_open_is_continued_by_no_process(tmp_path: Path) -> None:
    with MetricsCallback("held", log_dir=tmp_path, backends=[]):
        errors = [one["error"] for one in run(2, tmp_path, "held")]
    assert len(errors) == 2
    assert errors[0] == errors[1]
    assert "another process writes the journal in" in errors[0]


def test_a_writer_that_does_not_see_the_run_says_so(tmp_path: Path) -> None:
    with MetricsCallback("hidden", log_dir=tmp_path, backends=[]) as metrics:
        metrics.log(8, {"a": 1})
    run(2, tmp_path, "hidden")
    said = (tmp_path / "stderr_1").read_text()
    assert "`hidden` can't be opened, nothing of it is logged: process 1 is to continue it" in said
    assert "put `log_dir` on a file system that all processes share" in said
    assert not (tmp_path / "hidden").exists()


def test_a_loop_of_the_host_is_written_while_it_goes_on(tmp_path: Path) -> None:
    with cluster(2, tmp_path, "host_alone") as processes:
        for process, writes in zip(processes, (1, 0), strict=True):
            assert process.stdout is not None
            said = next(line for line in process.stdout if line.startswith("{"))
            assert json.loads(said)["waits"] == writes
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    assert [line["a"] for line in lines(tmp_path / "loop")] == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["loop"]
