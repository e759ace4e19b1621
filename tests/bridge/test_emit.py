"""The host half of the bridge: a failure there loses no other row and blocks nothing."""

from __future__ import annotations

import functools
import signal
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from interpreter import Program, run
from memory import Memory, logging_to_memory
from metriplex import MetricsCallback
from metriplex.bridge import receiver
from metriplex.bridge.emit import emit
from metriplex.bridge.packing import NO_SEQUENCE, Header, Kind, make_schema, pack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metriplex.bridge.rows import Row

GUARD = 60.0
"""Seconds until a waiting test fails."""


class Sink:
    """A sink that stores rows, and raises the given error once, on the first call."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.rows: list[Row] = []
        self.error = error

    def receive(self, rows: Sequence[Row]) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.rows += rows


def send(handle: Any, value: Any) -> None:
    values = {"a": jnp.asarray(value)}
    header = dict.fromkeys(Header, -1) | {
        Header.RUN: handle,
        Header.VALID: 1,
        Header.SEQUENCE: NO_SEQUENCE,
    }
    emit(pack(make_schema(Kind.RECORD, values), header, values, {})[None])


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_a_sink_that_raises_loses_its_own_rows_and_no_other(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    bad, good = Sink(error), Sink()
    handles = jnp.array([receiver.register(bad), receiver.register(good)], jnp.int32)
    program = jax.jit(jax.vmap(send))
    program(handles, jnp.arange(2))
    receiver.barrier()
    program(handles, jnp.arange(2) + 10)
    receiver.barrier()
    assert [row.values for row in bad.rows] == [{"a": 10}]
    assert [row.values for row in good.rows] == [{"a": 1}, {"a": 11}]
    assert [record.getMessage() for record in caplog.records] == [
        "a sink of metriplex could not take 1 row(s)"
    ]


def test_a_block_that_cannot_be_read_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    handle = receiver.register(sink)
    broken = np.zeros((1, len(Header)), np.uint32)
    broken[0, Header.VALID] = 1
    broken[0, Header.SCHEMA] = 12345
    emit(jnp.asarray(broken))
    send(np.int32(handle), 1)
    receiver.barrier()
    assert [row.values for row in sink.rows] == [{"a": 1}]
    assert "could not read a block of rows" in caplog.text


def test_an_interrupt_in_the_host_function_neither_loses_nor_repeats_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted:
        """The queue, with a Ctrl-C right before or right after the first `put`."""

        def __init__(self, queue: Any, *, late: bool) -> None:
            self.queue = queue
            self.late = late
            self.struck = False

        def put(self, item: Any) -> None:
            if self.late or self.struck:
                self.queue.put(item)
            if not self.struck:
                self.struck = True
                raise KeyboardInterrupt

    sink = Sink()
    handle = receiver.register(sink)
    schema = make_schema(Kind.END, {})
    rows = pack(schema, dict.fromkeys(Header, 1) | {Header.RUN: handle}, {}, {})[None]
    for late in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(receiver, "_blocks", Interrupted(receiver._blocks, late=late))
            with pytest.raises(KeyboardInterrupt):
                receiver.enqueue(rows)
    receiver.wait()
    assert [row.kind for row in sink.rows] == ["end", "end"]


def test_the_first_record_reaches_the_backend_before_the_program_ends(tmp_path: Path) -> None:
    with logging_to_memory(tmp_path) as (metrics, memory):

        def wait(_: Any) -> np.ndarray:
            return np.asarray(memory.arrived.wait(GUARD))

        def program(metrics: MetricsCallback) -> jax.Array:
            state = metrics.on_training_start(metrics.init(1))
            state = lax.fori_loop(
                0, 1, lambda i, s: metrics.on_iteration(s, training_log={"a": i}), state
            )
            seen = jax.pure_callback(
                wait, jax.ShapeDtypeStruct((), np.bool_), state.sequence, vmap_method="sequential"
            )
            metrics.on_training_end(state)
            return seen

        assert bool(jax.jit(program)(metrics))
    assert memory.values("train/a") == [0]


@pytest.mark.long
def test_rows_stay_intact_however_far_the_host_lags(tmp_path: Path) -> None:
    size, count = 64, 3000
    held = threading.Event()
    with logging_to_memory(tmp_path) as (metrics, memory):
        blocker = receiver.register(_Blocker(held))

        @jax.jit
        def program(handle: jax.Array) -> None:
            send(handle, 0)

            def iterate(state: Any, index: jax.Array) -> Any:
                log = {str(number): index * size + number for number in range(size)}
                return metrics.on_iteration(state, training_log=log), None

            lax.scan(iterate, metrics.init(1), jnp.arange(count))

        send(np.int32(blocker), 0)
        program(np.int32(blocker))
        jax.effects_barrier()
        held.set()
    for number in (0, 1, size - 1):
        expected = [index * size + number for index in range(count)]
        assert memory.values(f"train/{number}") == expected


class _Blocker:
    """A sink that blocks the receiver thread."""

    def __init__(self, go_on: threading.Event) -> None:
        self._go_on = go_on

    def receive(self, rows: Sequence[Row]) -> None:
        assert self._go_on.wait(GUARD)


def test_a_thread_that_dispatched_nothing_may_close_the_run(tmp_path: Path) -> None:
    memory = Memory()
    metrics = MetricsCallback("run", log_dir=str(tmp_path), backends=memory)

    def work() -> None:
        jax.jit(lambda m: [m.log(step, {"a": step}) for step in range(20)] and None)(metrics)
        jax.effects_barrier()

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    closer = threading.Thread(target=metrics.close)
    closer.start()
    closer.join(GUARD)
    assert sorted(memory.steps()) == list(range(20))
    assert memory.calls[-1] == "close_run"


def test_many_threads_dispatch_into_one_run(tmp_path: Path) -> None:
    @functools.partial(jax.jit, static_argnums=2)
    def program(metrics: MetricsCallback, base: jax.Array, count: int) -> jax.Array:
        def body(step: jax.Array, value: jax.Array) -> jax.Array:
            metrics.log(base + step, {"value": value})
            return value + 1

        return lax.fori_loop(0, count, body, base)

    with logging_to_memory(tmp_path) as (metrics, memory):

        def work(number: int) -> None:
            program(metrics, jnp.int32(1000 * number), 100)
            jax.effects_barrier()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = [1000 * number + step for number in range(8) for step in range(100)]
    assert sorted(memory.steps()) == expected
    assert sorted(memory.values("value")) == expected


def test_the_receiver_thread_does_not_wait_for_itself() -> None:
    done = threading.Event()

    class Waits:
        def receive(self, rows: Sequence[Row]) -> None:
            receiver.wait()
            done.set()

    send(np.int32(receiver.register(Waits())), 1)
    assert done.wait(GUARD)


# ---- processes ----------------------------------------------------------------------------------

PRELUDE = """
import os, signal, sys, threading
import jax, jax.numpy as jnp
from jax import lax
from metriplex import MetricsCallback, hookimpl

class Print:
    @hookimpl
    def log_scalars(self, records):
        for record in records:
            print("record", record.step, record.values["train/a"], flush=True)
    @hookimpl
    def close_run(self, status):
        print("closed", status, flush=True)

def train(metrics, count):
    def body(state, index):
        state = metrics.on_step(state, jnp.ones(1), jnp.zeros(1))
        return metrics.on_iteration(state, training_log={"a": index}), None
    state = metrics.on_training_start(metrics.init(1))
    return metrics.on_training_end(lax.scan(body, state, jnp.arange(count))[0]).iteration
"""


def script(body: str) -> str:
    return PRELUDE + textwrap.dedent(body)


def test_ctrl_c_while_a_program_logs_loses_nothing_and_is_a_keyboard_interrupt(
    tmp_path: Path,
) -> None:
    body = """
    with MetricsCallback("run", log_dir=sys.argv[1], backends=Print()) as metrics:
        jax.jit(train, static_argnums=1)(metrics, 3)
        jax.block_until_ready(jax.jit(train, static_argnums=1)(metrics, 2_000_000))
        print("not interrupted", flush=True)
    """
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stderr,
        Program(script(body), tmp_path, stderr=stderr) as process,
    ):
        lines = []
        for line in process.stdout or ():
            lines.append(line.split())
            if line.startswith("record 500 "):
                process.send_signal(signal.SIGINT)
    err = errors.read_text()
    steps = [int(line[1]) for line in lines if line[0] == "record"]
    assert steps == [1, 2, 3, *range(1, len(steps) - 2)]
    assert 503 <= len(steps) < 2_000_000
    assert lines[-1] == ["closed", "interrupted"]
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    assert process.returncode in (130, -signal.SIGINT)


def test_what_a_signal_handler_raises_in_a_program_ends_it_and_loses_nothing(
    tmp_path: Path,
) -> None:
    body = """
    import signal
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # the program runs on this thread
    def on_alarm(*_):
        raise TimeoutError("of the user")
    signal.signal(signal.SIGALRM, on_alarm)
    with MetricsCallback("run", log_dir=sys.argv[1], backends=Print()) as metrics:
        program = jax.jit(train, static_argnums=1).lower(metrics, 500_000).compile()
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        jax.block_until_ready(program(metrics))
        print("not interrupted", flush=True)
    """
    ended = run(script(body), tmp_path)
    lines = [line.split() for line in ended.stdout.splitlines()]
    steps = [int(line[1]) for line in lines if line[0] == "record"]
    assert 0 < len(steps) < 500_000
    assert steps == list(range(1, len(steps) + 1))
    assert lines[-1] == ["closed", "failed"]
    assert "TimeoutError: of the user" in ended.stderr


def test_a_fork_in_the_users_code_hangs_neither_process(tmp_path: Path) -> None:
    body = """
    import warnings
    warnings.simplefilter("ignore")
    with MetricsCallback("run", log_dir=sys.argv[1], backends=Print()) as metrics:
        jax.jit(train, static_argnums=1)(metrics, 2)
        metrics.flush()
        child = os.fork()
        if not child:
            metrics.__exit__(None, None, None)
            os._exit(7)  # jaxlib itself crashes at a normal exit of a forked child
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("child", status, flush=True)
        jax.jit(train, static_argnums=1)(metrics, 1)
    """
    done = run(script(body), tmp_path, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("record 1 0", "record 2 1"),
        "child 7",
        "record 1 0",
        "closed finished",
    ]


def test_the_last_rows_are_delivered_at_a_normal_exit_without_a_barrier(tmp_path: Path) -> None:
    body = """
    metrics = MetricsCallback("run", log_dir=sys.argv[1], backends=Print())
    jax.jit(train, static_argnums=1)(metrics, 1000)
    """
    done = run(script(body), tmp_path, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines == [*(f"record {n + 1} {n}" for n in range(1000)), "closed finished"]
