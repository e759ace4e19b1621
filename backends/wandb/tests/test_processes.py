"""The client stays out of this process; runs survive the death of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("wandb")

from metriplex import MetriplexError, RunInfo, Scalars
from metriplex_wandb import WandbBackend
from metriplex_wandb.contract import read_run


def records(*steps: int, lane: int | None = None) -> list[Scalars]:
    return [Scalars(step, {"a": step / 2}, lane=lane) for step in steps]


def rows(*steps: int) -> list[tuple[int, float]]:
    return [(step, step / 2) for step in steps]


def find(words: str, processes: dict[int, str]) -> list[int]:
    return [pid for pid, command in processes.items() if words in command]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_this_process_has_nothing_of_the_client_and_nothing_is_left(
    make_run, descendants, capfd
) -> None:
    def state() -> tuple[object, ...]:
        descriptors = {entry.name for entry in Path("/proc/self/fd").iterdir()}
        return (
            *(set(threading.enumerate()), descriptors, descendants()),
            *(dict(os.environ), sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT)),
        )

    before = state()
    backend, run = WandbBackend(mode="offline"), make_run()
    backend.open_run(run)
    backend.log_scalars(run, records(1))
    assert any("wandb-core" in command for command in descendants().values())
    backend.close_run(run, "finished")

    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_what_was_flushed_survives_a_sigkill_of_every_process(make_run, descendants) -> None:
    backend, run = WandbBackend(mode="offline"), make_run()
    backend.open_run(run)
    backend.log_scalars(run, records(*range(5000)) + records(7, 8, lane=3))

    backend.flush(run)
    for pid in descendants():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(MetriplexError, match="died"):
        backend.close_run(run, "finished")

    stored = read_run(run)
    assert stored.scalars == {(None, "a"): rows(*range(5000)), (3, "a"): rows(7, 8)}
    assert stored.status is None


@pytest.mark.parametrize("killed", ["-m metriplex_wandb_client", "wandb-core"])
def test_a_client_that_is_killed_costs_nothing_and_the_log_says_so(
    make_run, descendants, caplog, killed: str
) -> None:
    def record(step: int, lane: int | None = None) -> Scalars:
        return Scalars(step, {"a": step / 2}, lane=lane, wall_time=1e9 + step)

    backend, run = WandbBackend(mode="offline"), make_run()
    backend.open_run(run)
    backend.log_hparams(run, {"lr": 0.5})
    backend.log_scalars(run, [record(1), record(2)])
    backend.flush(run)
    backend.log_scalars(run, [record(3), record(4, lane=0)])  # it may have stored some or none
    [process] = find(killed, descendants())

    os.kill(process, signal.SIGKILL)
    backend.log_scalars(run, [record(5), record(6, lane=0)])
    backend.flush(run)
    backend.log_scalars(run, [record(7)])
    backend.close_run(run, "finished")

    stored = read_run(run)
    assert stored.scalars == {(None, "a"): rows(1, 2, 3, 5, 7), (0, "a"): rows(4, 6)}
    assert (stored.hparams, stored.status) == ({"lr": 0.5}, "finished")
    assert any(
        "died" in message and "another one is started" in message for message in caplog.messages
    )
    assert descendants() == {}


@pytest.mark.slow
def test_a_training_that_is_killed_ends_the_run_as_failed_and_loses_nothing(tmp_path) -> None:
    program = """
        import sys, time
        from pathlib import Path
        from metriplex import RunInfo, Scalars
        from metriplex_wandb import WandbBackend
        backend = WandbBackend(mode="offline")
        run = RunInfo("1", "run", Path(sys.argv[1]), time.time())
        backend.open_run(run)
        backend.log_scalars(run, [Scalars(step, {"a": step / 2}) for step in range(1000)])
        print("logged", flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "logged\n"
        [client] = map(int, children(training.pid))
        [*services] = map(int, children(client))
        training.kill()
    deadline = time.monotonic() + 60
    while any(map(is_running, [client, *services])):
        assert time.monotonic() < deadline, "the client's processes outlive the training"
        time.sleep(0.05)

    stored = read_run(RunInfo("1", "run", tmp_path, 0.0))
    assert stored.scalars == {(None, "a"): rows(*range(1000))}
    assert stored.status == "failed"


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
