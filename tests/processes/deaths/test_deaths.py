"""Deaths of a run that need no training: what was promised is there, whoever did it.

Ends of a whole program (exit, exceptions, Ctrl-C, SIGTERM) are in `test_shutdown.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, final

import jax
import jax.numpy as jnp
import pytest

from memory import Memory
from metriplex import MetricsCallback, Scalars, hookimpl
from metriplex.journal import Close, read_entries
from metriplex.journal.acks import load_ack
from metriplex.replay.journal import replay_run
from metriplex.run.scalar_batch import ScalarBatch
from processes.deaths.host import ENVIRONMENT, Service, make_run

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

HERE = Path(__file__).parent
LONG = 60.0
X = {"a": 1.0}


def kept(directory: Path) -> list[int]:
    """The steps in a journal."""
    records = (entry.record for entry in read_entries(directory))
    return [record.step for record in records if isinstance(record, Scalars)]


def python(body: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a process that knows `processes.deaths.host`, but not jax."""
    imports = "import os, sys, time\nfrom pathlib import Path\nfrom processes.deaths.host import *"
    program = f"{imports}\n{body}"
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )


# ---- killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moments", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments_every_record_that_was_flushed_is_sent_once_and_in_order(
    tmp_path: Path, moments: int
) -> None:
    command = [sys.executable, str(HERE / "kill.py"), str(tmp_path), str(moments), "7"]
    ended = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert len(ended.stdout.splitlines()) == moments


@pytest.mark.slow
def test_killed_at_forty_random_moments_tensorboard_has_each_step_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), "--pyargs", "metriplex.testing", "-k", "a_kill"]
    ended = subprocess.run(
        [*command, "--metriplex-backend", "tensorboard"],
        cwd=tmp_path,
        env={**os.environ, "METRIPLEX_KILLS": "40"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def test_a_backend_of_a_run_that_is_killed_before_its_first_flush_gets_all_when_the_run_goes_on(
    tmp_path: Path,
) -> None:
    body = """
directory = Path(sys.argv[1])
class First:
    @hookimpl
    def log_scalars(self):
        while b'"step":1' not in (directory / "journal" / "000000.jsonl").read_bytes():
            os.sched_yield()
        os.kill(os.getpid(), 9)
run = make_run(directory, First(), flush_secs=0.001)
run.log_scalars(0, {"a": 1.0})
run.log_scalars(1, {"a": 2.0})
run.flush(60.0)
"""
    ended = python(body, tmp_path / "run")
    assert (ended.returncode, ended.stderr) == (-9, "")

    @final
    class First:
        """The backend of that run, by its name."""

        def __init__(self) -> None:
            self.steps: list[int] = []

        @hookimpl
        def log_scalars(self, records: Sequence[Scalars]) -> None:
            self.steps += [record.step for record in records]

    first = First()
    with MetricsCallback(resume=tmp_path / "run", backends=first, provenance=False) as metrics:
        metrics.log(2, {"a": 3.0})
    assert first.steps == [0, 1, 2]


def test_os_exit_costs_what_came_since_the_last_flush(tmp_path: Path) -> None:
    body = """
run = make_run(Path(sys.argv[1]), Service(Path(sys.argv[2]), 3600.0), flush_secs=3600.0)
for step in range(60):
    run.log_scalars(step, {"a": 1.0})
    if step == 49:
        run.flush(60.0)
os._exit(5)
"""
    ended = python(body, tmp_path / "run", tmp_path / "service")
    assert (ended.returncode, ended.stderr) == (5, "")
    assert kept(tmp_path / "run")[:50] == list(range(50))
    assert Service(tmp_path / "service").stored()[:50] == list(range(50))


@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_at_every_byte_of_the_last_records_costs_only_these(
    tmp_path: Path, every: int
) -> None:
    whole = tmp_path / "whole"
    run = make_run(whole, Service(tmp_path / "service"), fsync="never")
    for step in range(6):
        run.log_scalars(step, X)
    run.close("finished", LONG)
    (segment,) = (whole / "journal").glob("*.jsonl")
    data = segment.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for size in range(ends[4], len(data) + 1, every):  # after the header and the steps 0 to 3
        directory = tmp_path / "cut"
        shutil.copytree(whole, directory)
        (directory / "journal" / segment.name).write_bytes(data[:size])
        survived = [step for step in range(6) if ends[step + 1] <= size + 1]
        run = make_run(directory, fsync="never")
        run.log_scalars(100, X)
        run.close("finished", LONG)
        assert kept(directory) == [*survived, 100]
        service = Service(tmp_path / "other")
        service.name = "first"  # ty: ignore[missing-attribute] - a backend may have a name
        ack = load_ack(directory, "first")
        assert ack is not None
        assert ack.acked <= len(survived) + 1  # what was lost is known to nobody
        (result,) = replay_run(directory, service)
        assert (service.stored()[-1], result.left) == (100, 0)
        (tmp_path / "other").unlink()
        shutil.rmtree(directory)


# ---- the disk -----------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Generator[Path]:
    """A file system of its own; skips where mounting is not permitted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {result.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_stops_nobody_and_what_waits_is_kept_when_there_is_room_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(tmp_path / "service")
    with small_disk(tmp_path / "disk", "128k") as disk:
        run = make_run(disk / "run", service, flush_secs=0.001)
        ballast = disk / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(2**20))
        for step in range(3000):
            run.log_scalars(step, X)
        run._workers[0].start_flush().wait(LONG)
        assert service.stored() == list(range(3000))  # the journal is not waited for
        assert len(kept(disk / "run")) < 3000
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        run.flush(LONG)
        assert kept(disk / "run") == list(range(3000))
        run.close("finished", LONG)
        assert not [entry for entry in caplog.messages if "did not reach" in entry]


def test_a_disk_that_stays_full_is_told_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(tmp_path / "service")
    with small_disk(tmp_path / "disk", "128k") as disk:
        run = make_run(disk / "run", service, flush_secs=0.001)
        for step in range(3000):
            run.log_scalars(step, X)
        run.close("finished", LONG)
        assert service.stored() == list(range(3000))
        found = kept(disk / "run")
        assert found == list(range(len(found)))  # whole, as far as there was room
    assert f"{3000 - len(found)} of 3000 record(s) did not reach backend `journal`" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_directory_that_is_removed_costs_the_files_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(tmp_path / "service")
    run = make_run(tmp_path / "run", service, max_bytes=1000, flush_secs=0.001)
    run.log_scalars(0, X)
    run.flush(LONG)
    shutil.rmtree(tmp_path / "run")
    for step in range(1, 100):
        run.log_scalars(step, X)
    run.close("finished", LONG)
    assert service.stored() == list(range(100))
    assert any("backend `journal`" in message for message in caplog.messages)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_permissions_that_are_lost_cost_what_can_not_be_written() -> None:
    body = """
os.seteuid(65534)
directory, path = Path(sys.argv[1]) / "run", Path(sys.argv[1]) / "service"
run = make_run(directory, Service(path), max_bytes=2000, flush_secs=0.001)
run.log_scalars(0, {"a": 1.0})
run.flush(60.0)
for inner in (directory / "journal", directory):
    inner.chmod(0o500)
for step in range(1, 200):
    run.log_scalars(step, {"a": 1.0})
run.close("finished", 60.0)
print(len(Service(path).stored()))
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        ended = python(body, folder)
        assert (ended.returncode, ended.stdout) == (0, "200\n"), ended.stderr
        assert "did not reach backend `journal`" in ended.stderr
        assert "PermissionError" in ended.stderr
        found = kept(Path(folder) / "run")
        assert found == list(range(len(found)))
        for inner in (Path(folder) / "run", Path(folder) / "run" / "journal"):
            inner.chmod(0o700)


# ---- the clock, forks, threads ------------------------------------------------------------------


def test_a_clock_that_goes_backwards_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    back = itertools.count(2e9, -1000.0)
    monkeypatch.setattr(time, "time", lambda: next(back))
    with MetricsCallback("run", log_dir=tmp_path, backends=memory) as metrics:
        for step in range(20):
            metrics.log(step, {"a": 1.0})
    assert memory.steps() == kept(metrics.directory) == list(range(20))
    times = [record.wall_time for record in memory.records]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_child_of_the_user_s_neither_writes_nor_keeps_the_run_locked(
    tmp_path: Path, how: str
) -> None:
    body = """
import multiprocessing, warnings
warnings.simplefilter("ignore")

def wait(receiver):
    receiver.recv()

if __name__ == "__main__":
    run = make_run(Path(sys.argv[1]), Service(Path(sys.argv[2])))
    run.log_scalars(0, {"a": 1.0})
    receiver, sender = multiprocessing.Pipe()
    target, arguments = (wait, (receiver,)) if sys.argv[3] == "fork" else (time.sleep, (60.0,))
    child = multiprocessing.get_context(sys.argv[3]).Process(target=target, args=arguments)
    child.start()
    run.log_scalars(1, {"a": 1.0})
    run.close("finished", 60.0)
    again = make_run(Path(sys.argv[1]))
    again.log_scalars(2, {"a": 1.0})
    again.close("finished", 60.0)
    assert child.is_alive()
    child.kill()
    child.join()
"""
    ended = python(body, tmp_path / "run", tmp_path / "service", how)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert kept(tmp_path / "run") == [0, 1, 2]
    assert Service(tmp_path / "service").stored() == [0, 1]


@jax.jit
def program(metrics: MetricsCallback, first: jax.Array) -> jax.Array:
    def body(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        metrics.log(first + index, {"a": index})
        return total + index, None

    return jax.lax.scan(body, first, jnp.arange(50))[0]


def test_programs_of_several_threads_lose_and_double_nothing(tmp_path: Path) -> None:
    memory = Memory()
    with MetricsCallback("run", log_dir=tmp_path, backends=memory) as metrics:

        def work(first: int) -> None:
            program(metrics, jnp.int32(first)).block_until_ready()
            jax.effects_barrier()

        threads = [threading.Thread(target=work, args=[1000 * index]) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert memory.steps() == kept(metrics.directory)
    assert sorted(memory.steps()) == [1000 * i + step for i in range(4) for step in range(50)]


# ---- a server that is down ----------------------------------------------------------------------


@final
class Client:
    """Sends the steps of each call over a connection of its own."""

    flush_secs = 1e-3

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.refused = threading.Semaphore(0)

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        text = b"".join(b"%d\n" % record.step for record in records)
        try:
            with socket.create_connection(self.address, timeout=LONG) as connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b"k"
        except ConnectionError:
            self.refused.release()
            raise


def test_a_server_that_is_down_for_half_of_the_run_gets_all_of_it(tmp_path: Path) -> None:
    got: list[int] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            got.extend(int(line) for line in self.rfile.read().split())
            self.wfile.write(b"k")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler, bind_and_activate=False) as server:
        server.allow_reuse_address = True
        server.server_bind()  # nobody listens: a connection is refused
        client = Client(("127.0.0.1", server.server_address[1]))
        run = make_run(tmp_path / "run", client, queue_size=50)
        for step in range(1000):
            run.log_scalars(step, X)
        for _ in range(3):
            assert client.refused.acquire(timeout=LONG)
        server.server_activate()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for step in range(1000, 2000):
            run.log_scalars(step, X)
        run.close("finished", LONG)
        server.shutdown()
        thread.join(LONG)
    assert got == list(range(2000))
    assert [(d.delivered, d.undelivered) for d in run.deliveries()] == [(2000, 0)]


# ---- very long ----------------------------------------------------------------------------------

RECORDS = 2_000_000
"""Of the ten millions that a long run may have: memory has settled long before."""


@pytest.mark.slow
def test_millions_of_records_with_a_backend_that_is_down_take_no_memory(tmp_path: Path) -> None:
    class Down:
        @hookimpl
        def log_scalars(self) -> None:
            raise ConnectionError("away")

    run = make_run(tmp_path / "run", Down(), queue_size=1000, fsync="never")
    sizes = []
    for first in range(0, RECORDS, 1000):
        records = tuple(Scalars(step, X) for step in range(first, first + 1000))
        run._submit_checked(ScalarBatch.of(records))
        if first % 50_000 == 49_000:  # before the queue of the journal is full
            assert run._journal_worker is not None
            assert run._journal_worker.start_flush().wait(LONG)
            pages = Path("/proc/self/statm").read_text().split()[1]
            sizes.append(int(pages) * os.sysconf("SC_PAGE_SIZE"))
    run.close("finished", LONG)
    settled = len(sizes) // 4
    assert max(sizes[settled:]) - sizes[settled] < 20_000_000
    (delivery,) = run.deliveries()
    assert (delivery.undelivered, delivery.journaled) == (RECORDS, RECORDS)
    *_, last = read_entries(tmp_path / "run", RECORDS - 5)
    assert last.record == Close("finished")
    assert kept_from(tmp_path / "run", RECORDS - 5) == list(range(RECORDS - 5, RECORDS))


def kept_from(directory: Path, start: int) -> list[int]:
    records = (entry.record for entry in read_entries(directory, start))
    return [record.step for record in records if isinstance(record, Scalars)]
