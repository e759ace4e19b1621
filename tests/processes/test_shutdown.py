"""Real processes that end in every way there is; each writes its records to a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import pytest

from interpreter import Program
from metriplex import Scalars
from metriplex.journal import Close, read_entries

if TYPE_CHECKING:
    from pathlib import Path

LONG = 120.0
"""Seconds after which a process is killed, and the test has failed."""

PREAMBLE = """
import asyncio, ctypes, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import jax, jax.numpy as jnp
from metriplex import ClosedError, MetricsCallback, hookimpl
from metriplex.run import signals

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
folder = sys.argv[1]

def say(word):
    print(word, flush=True)

def wait():
    while True:  # a signal just before one long sleep would not end it
        time.sleep(0.01)

class File:
    flush_secs = 3600.0

    def __init__(self, name="steps", ready_at=None):
        self.name, self.ready_at = name, ready_at

    @hookimpl
    def open_run(self):
        self.file = open(f"{folder}/{self.name}", "a")

    @hookimpl
    def log_scalars(self, records):
        self.file.writelines(f"{record.step}\\n" for record in records)
        if self.ready_at is not None and records[-1].step >= self.ready_at:
            self.ready_at = None
            say("ready")

    @hookimpl
    def flush(self):
        self.file.flush()

    @hookimpl
    def close_run(self, status):
        self.file.write(f"{status}\\n")
        self.file.close()

def make(name="steps", ready_at=None, **options):
    return MetricsCallback(f"run-{name}", log_dir=folder, backends=File(name, ready_at), **options)

def log(metrics, last, first=1):
    for step in range(first, last + 1):
        metrics.log(step, {"a": 1.0})

def program(metrics, iterations, forever):
    def body(state, _):
        state = metrics.on_step(state, jnp.ones(1), jnp.ones(1, bool))
        return metrics.on_iteration(state), None
    state = metrics.on_training_start(metrics.init(1))
    state, _ = jax.lax.scan(body, state, length=iterations)
    known = sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(state))
    start = jnp.where(jnp.isfinite(known), jnp.uint32(forever), 0)  # so it spins only after that
    spun = jax.lax.while_loop(lambda x: x > 0, lambda x: x % 1000 + 1, start)
    return metrics.on_training_end(state), spun

train = jax.jit(program, static_argnums=(1, 2))
"""


@final
@dataclass(frozen=True)
class Ended:
    """A process that has ended, and what it left in its file."""

    code: int
    errors: str
    output: str
    steps: list[int]
    status: str | None


def read(path: Path) -> tuple[list[int], str | None]:
    lines = path.read_text().split() if path.exists() else []
    numbers = [int(line) for line in lines if line.isdigit()]
    words = [line for line in lines if not line.isdigit()]
    assert len(words) <= 1
    return numbers, words[0] if words else None


def check_journals(folder: Path) -> None:
    """Check that the journal of each run holds the steps of its backend file in the same order."""
    for directory in folder.glob("run-*"):
        steps, status = read(folder / directory.name.removeprefix("run-"))
        records = [entry.record for entry in read_entries(directory)]
        kept = [record.step for record in records if isinstance(record, Scalars)]
        if status is None:  # killed
            flushed = len(steps) // 10 * 10
            assert kept[:flushed] == steps[:flushed]
        else:
            assert kept == steps
            assert records[-1] == Close(status)


def run(folder: Path, body: str, send: signal.Signals | None = None) -> Ended:
    """Runs a process; sends it a signal as soon as it says that it is ready."""
    source = PREAMBLE + textwrap.dedent(body)
    process = Program(source, folder, env={**os.environ, "XLA_FLAGS": ""})
    guard = threading.Timer(LONG, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        said = ""
        if send is not None:
            said = process.stdout.readline()
            assert said == "ready\n", process.communicate()[1]
            process.send_signal(send)
        output, errors = process.communicate()
    finally:
        guard.cancel()
        process.kill()
    steps, status = read(folder / "steps")
    check_journals(folder)
    return Ended(process.returncode, errors, said + output, steps, status)


def up_to(last: int) -> list[int]:
    return list(range(1, last + 1))


# ---- the process ends by itself -----------------------------------------------------------------


def test_a_program_that_ends_without_close_loses_nothing(tmp_path: Path) -> None:
    ended = run(tmp_path, "train(make(), 300, False)")
    assert ended == Ended(0, "", "", up_to(300), "finished")


def test_a_program_that_imports_jax_after_metriplex_loses_nothing(tmp_path: Path) -> None:
    early = "from metriplex.run import run, shutdown\n"
    source = early + PREAMBLE + "train(make(), 300, False)"
    command = [sys.executable, "-c", source, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert read(tmp_path / "steps") == (up_to(300), "finished")


def test_sys_exit_keeps_its_code_and_closes_all_runs(tmp_path: Path) -> None:
    ended = run(tmp_path, "log(make(), 50); log(make('other'), 70); sys.exit(3)")
    assert ended == Ended(3, "", "", up_to(50), "finished")
    assert read(tmp_path / "other") == (up_to(70), "finished")


def test_an_uncaught_exception_fails_the_run(tmp_path: Path) -> None:
    ended = run(tmp_path, "metrics = make(); log(metrics, 50); raise ValueError('mine')")
    assert (ended.code, ended.steps, ended.status) == (1, up_to(50), "failed")
    assert ended.errors.count("Traceback") == 1
    assert ended.errors.endswith("ValueError: mine\n")


def test_a_value_that_was_rejected_is_told_at_the_end(tmp_path: Path) -> None:
    ended = run(tmp_path, "make().log(1, {'a': float('nan'), 'b': 1.0})")
    assert (ended.code, ended.steps, ended.status) == (0, [1], "finished")
    assert "Traceback" not in ended.errors
    assert ended.errors.splitlines() == [
        "run `run-steps`: `a` is nan at step 1; the value reaches no backend",
        "run `run-steps`: 1 value(s) that are NaN or infinite were rejected, of `a`",
    ]


def test_a_hung_backend_does_not_keep_the_process(tmp_path: Path) -> None:
    body = """
        class Hung:
            @hookimpl
            def log_scalars(self):
                threading.Event().wait()

        metrics = MetricsCallback("run", log_dir=folder, backends=[Hung(), File()])
        log(metrics, 50)
        metrics.close(timeout=1.0)
        print([(d.delivered, d.undelivered) for d in metrics.deliveries()])
    """
    ended = run(tmp_path, body)
    assert (ended.code, ended.steps, ended.status) == (0, up_to(50), "finished")
    assert ended.output == "[(0, 50), (50, 0)]\n"
    assert "50 of 50 record(s) did not reach backend `hung`" in ended.errors


def test_a_run_of_another_thread_is_closed_too(tmp_path: Path) -> None:
    body = """
        def work():
            log(make(), 50)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    assert run(tmp_path, body) == Ended(0, "", "", up_to(50), "finished")


def test_a_program_that_fails_fails_the_run(tmp_path: Path) -> None:
    body = """
        def fail(x):
            raise ValueError("mine")

        @jax.jit
        def work(x):
            jax.debug.callback(fail, x)
            return x

        metrics = make()
        log(metrics, 50)
        work(1.0)
        metrics.close()
    """
    ended = run(tmp_path, body)
    assert (ended.code, ended.steps, ended.status) == (1, up_to(50), "failed")
    assert "ValueError: mine" in ended.errors


# ---- Ctrl-C -------------------------------------------------------------------------------------


@pytest.mark.parametrize("owned", [True, False], ids=["with", "atexit"])
def test_ctrl_c_in_python_interrupts_the_run(tmp_path: Path, owned: bool) -> None:
    body = """
        metrics = make()
        def work():
            log(metrics, 50)
            say("ready")
            wait()
    """
    block = "with metrics:\n    work()" if owned else "work()"
    ended = run(tmp_path, textwrap.dedent(body) + block, signal.SIGINT)
    assert (ended.code, ended.steps, ended.status) == (-2, up_to(50), "interrupted")
    assert ended.errors.rstrip().endswith("KeyboardInterrupt")


PLACES = {
    "main thread": "train(metrics, 2**30, False)",
    "vmapped": "jax.jit(jax.vmap(lambda _: program(metrics, 2**30, False)))(jnp.ones(2))",
    "thread of jax": """
        wait_long = jax.jit(lambda x: jax.lax.fori_loop(0, 10**7, lambda i, x: x + i, x))
        late = wait_long(jnp.int32(0))  # a program that waits for it runs on another thread
        jax.jit(lambda x: program(metrics, 2**30, x.sum() < 0))(late)
    """,
}
"""A compiled program, by the thread that its host calls are made on."""


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("owned", [True, False], ids=["with", "atexit"])
def test_ctrl_c_in_a_compiled_program_interrupts_the_run(
    tmp_path: Path, place: str, owned: bool
) -> None:
    body = "metrics = make(ready_at=100)\ndef work():\n"
    body += textwrap.indent(textwrap.dedent(place).strip() + "\njax.effects_barrier()\n", "    ")
    body += "with metrics:\n    work()\nsay('not interrupted')" if owned else "work()"
    ended = run(tmp_path, body, signal.SIGINT)
    # Without `with`, jax's error of the program may be what ends the process.
    assert ended.code == -2 or (ended.code == 1 and not owned)
    assert (ended.status, ended.output) == ("interrupted", "ready\n")
    steps = sorted(set(ended.steps)) if "vmap" in place else ended.steps
    assert len(steps) >= 100
    assert steps == up_to(len(steps))
    assert "KeyboardInterrupt" in ended.errors
    assert "close the run after" not in ended.errors


def test_ctrl_c_that_main_handles_stops_no_program_of_another_thread(tmp_path: Path) -> None:
    body = """
        def work():
            train(make(ready_at=100), 2000, False)
            jax.effects_barrier()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            wait()
        except KeyboardInterrupt:
            say("handled")
        while thread.is_alive():
            time.sleep(0.01)
    """
    ended = run(tmp_path, body, signal.SIGINT)
    assert ended == Ended(0, "", "ready\nhandled\n", up_to(2000), "finished")


def test_a_second_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    """It comes while the run is being closed, in the middle of the delivery."""
    body = """
        class Late(File):
            @hookimpl
            def log_scalars(self, records):
                asked.wait()
                File.log_scalars(self, records)

        asked = threading.Event()
        metrics = MetricsCallback("run-steps", log_dir=folder, backends=Late())
        with metrics:
            log(metrics, 500)
            def press():
                while not any(t.name == "metriplex-close" for t in threading.enumerate()):
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
                asked.set()
            threading.Thread(target=press, daemon=True).start()
            say("ready")
            wait()
    """
    ended = run(tmp_path, body, signal.SIGINT)
    assert (ended.code, ended.steps, ended.status) == (-2, up_to(500), "interrupted")
    assert "still being closed" in ended.errors


@pytest.mark.parametrize("closed", ["12", "012", "2", "0"])
def test_no_file_of_a_run_gets_a_standard_descriptor(tmp_path: Path, closed: str) -> None:
    body = f"""
        for descriptor in map(int, {closed!r}):
            os.close(descriptor)
        with make() as metrics:
            log(metrics, 50)
            metrics.flush()
            for descriptor in map(int, {closed!r}):
                os.write(descriptor, b"printed")
    """
    program = PREAMBLE + textwrap.dedent(body)
    process = Program(program, tmp_path, env={**os.environ, "XLA_FLAGS": ""})
    process.communicate(timeout=LONG)
    assert process.returncode == 0
    assert read(tmp_path / "steps") == (up_to(50), "finished")
    check_journals(tmp_path)


# ---- SIGTERM ------------------------------------------------------------------------------------


ENDING = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])


@ENDING
def test_a_signal_in_python_interrupts_the_run(tmp_path: Path, number: signal.Signals) -> None:
    body = """
        with make() as metrics:
            log(metrics, 50)
            say("ready")
            wait()
    """
    ended = run(tmp_path, body, number)
    assert ended == Ended(-number, "", "ready\n", up_to(50), "interrupted")


def test_sigterm_in_a_compiled_program_without_end_loses_nothing(tmp_path: Path) -> None:
    ended = run(tmp_path, "train(make(ready_at=400), 400, True)", signal.SIGTERM)
    assert ended == Ended(-15, "", "ready\n", up_to(400), "interrupted")


@ENDING
def test_a_signal_in_a_compiled_program_that_logs_without_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    ended = run(tmp_path, "train(make(ready_at=100), 2**30, False)", number)
    assert (ended.code, ended.status, ended.errors) == (-number, "interrupted", "")
    assert len(ended.steps) >= 100
    assert ended.steps == up_to(len(ended.steps))


def test_sigterm_waits_for_no_lock_and_raises_nothing_in_the_main_thread(tmp_path: Path) -> None:
    body = """
        metrics = make()
        log(metrics, 50)
        with metrics.run._lock:
            say("ready")
            signals._terminating.wait()
        while True:
            metrics.log(51, {"a": 1.0})
    """
    ended = run(tmp_path, body, signal.SIGTERM)
    assert (ended.code, ended.errors, ended.status) == (-15, "", "interrupted")
    assert ended.steps[:50] == up_to(50)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_handler_of_the_program_is_left_alone(tmp_path: Path, first: bool) -> None:
    parts = ["metrics = make()", "signal.signal(signal.SIGTERM, lambda *_: handled.set())"]
    body = f"""
        handled = threading.Event()
        {"; ".join(reversed(parts) if first else parts)}
        log(metrics, 50)
        say("ready")
        while not handled.is_set():
            time.sleep(0.01)
        log(metrics, 60, 51)
    """
    ended = run(tmp_path, body, signal.SIGTERM)
    assert ended == Ended(0, "", "ready\n", up_to(60), "finished")


def test_a_handler_that_calls_the_one_before_it_ends_the_process(tmp_path: Path) -> None:
    body = """
        metrics = make()
        log(metrics, 50)
        previous = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *args: (say("mine"), previous(*args)))
        say("ready")
        wait()
    """
    ended = run(tmp_path, body, signal.SIGTERM)
    assert ended == Ended(-15, "", "ready\nmine\n", up_to(50), "interrupted")


def test_a_handler_in_c_is_left_alone(tmp_path: Path) -> None:
    body = """
        libc = ctypes.CDLL(None)
        libc.signal(15, libc.abs)  # takes an int and does nothing
        metrics = make()
        log(metrics, 50)
        os.kill(os.getpid(), 15)
    """
    assert run(tmp_path, body) == Ended(0, "", "", up_to(50), "finished")


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_sigterm_while_an_event_loop_has_the_wakeup_descriptor(tmp_path: Path, first: bool) -> None:
    take = "asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)"
    make = "metrics = make()"
    body = f"""
        async def main():
            {take if first else make}
            {make if first else take}
            log(metrics, 50)
            say("ready")
            await asyncio.sleep(3600)

        asyncio.run(main())
    """
    ended = run(tmp_path, body, signal.SIGTERM)
    assert ended == Ended(-15, "", "ready\n", up_to(50), "interrupted")


def test_sigterm_is_only_caught_if_the_main_thread_could_say_so(tmp_path: Path) -> None:
    """A callback that another thread makes costs what came since the last flush, but no hang."""
    body = """
        def work():
            metrics = make()
            log(metrics, 50)
            metrics.flush()
            log(metrics, 60, 51)

        with ThreadPoolExecutor() as pool:
            pool.submit(work).result()
        if len(sys.argv) > 2:
            make("other")
        say("ready")
        wait()
    """
    ended = run(tmp_path, body, signal.SIGTERM)
    assert (ended.code, ended.errors, ended.status) == (-15, "", None)
    assert ended.steps[:50] == up_to(50)
    again = tmp_path / "again"
    again.mkdir()
    ended = run(again, "sys.argv.append('')\n" + textwrap.dedent(body), signal.SIGTERM)
    assert ended == Ended(-15, "", "ready\n", up_to(60), "interrupted")


def test_sigkill_costs_at_most_what_came_since_the_last_flush(tmp_path: Path) -> None:
    body = """
        metrics = make()
        log(metrics, 50)
        metrics.flush()
        log(metrics, 60, 51)
        say("ready")
        wait()
    """
    ended = run(tmp_path, body, signal.SIGKILL)
    assert (ended.code, ended.errors, ended.status) == (-9, "", None)
    assert ended.steps[:50] == up_to(50)


# ---- forks --------------------------------------------------------------------------------------

WITHOUT_WARNINGS = """
import warnings
warnings.simplefilter("ignore")  # of jax and Python about forks of threaded processes
"""


def test_a_forked_child_ends_by_sigterm_and_its_parent_does_not(tmp_path: Path) -> None:
    body = """
        metrics = make()
        log(metrics, 50)
        for _ in range(30):
            child = os.fork()
            if not child:
                while True:
                    signal.pause()
            os.kill(child, signal.SIGTERM)  # most often before the child has run at all
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -15
        log(metrics, 60, 51)
    """
    ended = run(tmp_path, WITHOUT_WARNINGS + textwrap.dedent(body))
    assert ended == Ended(0, "", "", up_to(60), "finished")


def test_a_parent_with_forked_children_keeps_its_own_sigterm(tmp_path: Path) -> None:
    body = """
        import multiprocessing
        metrics = make()
        log(metrics, 50)
        process = multiprocessing.get_context("fork").Process(target=signal.pause)
        process.start()
        process.terminate()
        process.join()
        assert process.exitcode == -15
        say("ready")
        wait()
    """
    ended = run(tmp_path, WITHOUT_WARNINGS + textwrap.dedent(body), signal.SIGTERM)
    assert ended == Ended(-15, "", "ready\n", up_to(50), "interrupted")


def test_a_forked_child_sees_a_closed_run_and_ends_without_touching_it(tmp_path: Path) -> None:
    body = """
        with make() as metrics:
            log(metrics, 50)
            child = os.fork()
            if not child:
                try:
                    metrics.log(99, {"a": 1.0})
                except ClosedError:
                    metrics.close()
                    sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            log(metrics, 60, 51)
    """
    ended = run(tmp_path, WITHOUT_WARNINGS + textwrap.dedent(body))
    assert ended == Ended(0, "", "", up_to(60), "finished")
