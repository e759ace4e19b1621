"""The crossing by XLA's FFI, beside the one by callbacks, and what it does where it can't serve."""

from __future__ import annotations

import functools
import logging
import re
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import Memory
from metriplex import ConfigurationError, MetricsCallback, callback_with_numpy_wrapper
from metriplex.bridge import ffi, ffi_handlers, receiver, stop, xla_api
from metriplex.device import config

if TYPE_CHECKING:
    from pathlib import Path

    from jax.sharding import Mesh

COUNT = 20
TRANSPORTS = ["auto", "ffi", "callback"]

if ffi_handlers.explain_unusable() is not None:
    pytest.skip(str(ffi_handlers.explain_unusable()), allow_module_level=True)


def train(metrics: MetricsCallback, start: Any) -> Any:
    def iterate(state: Any, index: jax.Array) -> Any:
        log = {"float": start + index, "int": index, "half": (start + index).astype(jnp.bfloat16)}
        state = metrics.on_iteration(state, training_log=log)
        metrics.log(index, {"sample": start * index})
        return state, None

    state, _ = jax.lax.scan(iterate, metrics.init(1), jnp.arange(COUNT))
    return metrics.on_training_end(state)


def logged(tmp_path: Path, transport: Any, run: Any, start: Any) -> list[Any]:
    memory = Memory()
    with MetricsCallback(
        "r", log_dir=tmp_path / transport, backends=memory, transport=transport, provenance=False
    ) as metrics:
        run(metrics)(start)
    records = [(one.lane is None, one.lane or 0, one.step, one.values) for one in memory.records]
    return sorted(records, key=repr)


WAYS: dict[str, Any] = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: jax.jit(jax.vmap(f)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_transport_logs_the_same(tmp_path: Path, way: str) -> None:
    start = jnp.float32(0.1) if way != "vmap" else jnp.arange(3, dtype=jnp.float32)
    ways = [
        logged(tmp_path, transport, lambda m: WAYS[way](lambda x: train(m, x)), start)
        for transport in TRANSPORTS
    ]
    assert len(ways[0]) == 2 * COUNT * (3 if way == "vmap" else 1)
    assert ways[0] == ways[1] == ways[2]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_program_calls_the_host_as_it_is_told(tmp_path: Path, transport: Any) -> None:
    with MetricsCallback(
        "r", log_dir=tmp_path, backends=Memory(), transport=transport, provenance=False
    ) as metrics:
        text = jax.jit(lambda x: train(metrics, x)).lower(jnp.float32(0)).as_text()
    assert (ffi.COPIED in text) == (transport != "callback")


@pytest.mark.parametrize("nonfinite", ["error", "abort"])
def test_a_program_of_one_device_holds_no_callback(tmp_path: Path, nonfinite: Any) -> None:
    with MetricsCallback(
        "r", log_dir=tmp_path, backends=Memory(), nonfinite=nonfinite, provenance=False
    ) as metrics:
        text = jax.jit(lambda x: train(metrics, x)).lower(jnp.float32(0)).as_text()
    aborts = {stop.ABORT} if nonfinite == "abort" else set()
    targets = {*re.findall(r"custom_call @(\w+)", text)}
    assert targets == {ffi.COPIED, ffi.DRAW, stop.INTERRUPT} | aborts


def mesh() -> Mesh:
    return jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


def test_of_the_copies_that_devices_send_one_is_taken(tmp_path: Path) -> None:
    where = jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec("x"))
    values = jax.device_put(jnp.arange(8.0), where)
    memory = Memory()
    with MetricsCallback("r", log_dir=tmp_path, backends=memory, provenance=False) as metrics:

        @jax.jit
        def program(values: jax.Array) -> jax.Array:
            metrics.log(1, {"sum": values.sum()})
            metrics.log(1, {"sum": values.sum()})  # twice is meant
            return values * 2

        for _ in range(3):
            program(values)
    assert [record.values for record in memory.records] == [{"sum": 28.0}] * 6


@pytest.mark.parametrize("every", [3, 1])
def test_an_exception_in_the_handler_loses_nothing_in_silence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    every: int,
) -> None:
    """The handler tries again; if that fails too, the program goes on, and the log says so."""
    calls = 0

    def push(*block: Any) -> str | None:
        nonlocal calls
        calls += 1
        if calls % every == 0:
            raise MemoryError("no room for a moment")
        return receiver.push(*block)

    memory = Memory()
    monkeypatch.setitem(globals(), "__name__", "metriplex.bridge")  # where `push` raises
    monkeypatch.setattr(ffi_handlers._kept[0], "_push", push)
    with MetricsCallback("r", log_dir=tmp_path, backends=memory, provenance=False) as metrics:
        jax.block_until_ready(jax.jit(lambda x: train(metrics, x))(jnp.float32(0)))
    lost = [
        text for text in caplog.messages if text == "a block of rows is lost on its way to the host"
    ]
    if every == 1:
        assert memory.records == []
        assert len(lost) >= 2 * COUNT
    else:
        assert lost == []
        assert memory.values("train/int") == list(range(COUNT))
        assert sorted(memory.values("sample")) == [0.0] * COUNT


def test_an_exception_of_a_signal_handler_stops_the_program_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def push(*block: Any) -> str | None:
        nonlocal calls
        calls += 1
        if calls == COUNT:
            raise TimeoutError("of the user")
        return receiver.push(*block)

    memory = Memory()
    monkeypatch.setattr(ffi_handlers._kept[0], "_push", push)
    with (
        MetricsCallback("r", log_dir=tmp_path, backends=memory, provenance=False) as metrics,
        pytest.raises(jax.errors.JaxRuntimeError, match="TimeoutError: of the user"),
    ):
        jax.block_until_ready(jax.jit(lambda x: train(metrics, x))(jnp.float32(0)))
    assert memory.values("train/int") == list(range(COUNT // 2))
    assert len(memory.values("sample")) == COUNT // 2


def test_ctrl_c_that_lands_in_a_finalizer_in_a_call_stops_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python drops such an exception; the garbage collector can run finalizers in any call."""
    calls = 0

    @final
    class Garbage:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def push(*block: Any) -> str | None:
        nonlocal calls
        calls += 1
        if calls == COUNT:
            Garbage()
        return receiver.push(*block)

    memory = Memory()
    monkeypatch.setattr(ffi_handlers._kept[0], "_push", push)
    with (
        pytest.raises(KeyboardInterrupt),
        MetricsCallback("r", log_dir=tmp_path, backends=memory, provenance=False) as metrics,
    ):
        jax.block_until_ready(jax.jit(lambda x: train(metrics, x))(jnp.float32(0)))
    assert memory.values("train/int") == list(range(COUNT // 2))
    assert len(memory.values("sample")) == COUNT // 2


def test_programs_go_on_after_their_caches_are_cleared(tmp_path: Path) -> None:
    memory = Memory()
    with MetricsCallback("r", log_dir=tmp_path, backends=memory, provenance=False) as metrics:
        program = jax.jit(lambda x: train(metrics, x))
        program(jnp.float32(0))
        jax.clear_caches()
        program(jnp.float32(1))
    assert len(memory.values("train/int")) == 2 * COUNT


def test_a_large_block_arrives_whole(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, (3, 200_000), np.uint32)
    found: list[np.ndarray] = []
    send = callback_with_numpy_wrapper(found.append)
    jax.jit(jax.vmap(send))(jnp.asarray(words))
    receiver.barrier()
    assert len(found) == 3
    assert all(np.array_equal(got, row) for got, row in zip(found, words, strict=True))


# ---- where it can't serve -----------------------------------------------------------------------


def test_versions_that_are_not_known_are_left_alone() -> None:
    header = xla_api.read_header()
    assert xla_api.explain_unusable(header) is None
    newer = header.replace("#define XLA_FFI_API_MINOR ", "#define XLA_FFI_API_MINOR 9")
    assert "which is none of the known ones" in str(xla_api.explain_unusable(newer))
    assert "has no version" in str(xla_api.explain_unusable("int main;"))
    lacking = header.replace("_XLA_FFI_API_STRUCT_FIELD(XLA_FFI_RunId_Get);", "")
    assert xla_api.explain_unusable(lacking) == "it lacks XLA_FFI_RunId_Get"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jaxlib whose header is of a version that nobody knows."""
    monkeypatch.setattr(xla_api, "VERSIONS", {(99, 0)})
    again = functools.cache(ffi_handlers.explain_unusable.__wrapped__)
    for module in (ffi_handlers, config):  # XLA takes the handlers of a process once
        monkeypatch.setattr(module, "explain_unusable", again)


@pytest.mark.usefixtures("refused")
def test_a_jaxlib_that_is_not_known_takes_callbacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "metriplex")
    memory = Memory()
    with MetricsCallback("r", log_dir=tmp_path, backends=memory, provenance=False) as metrics:
        program = jax.jit(lambda x: train(metrics, x))
        assert ffi.COPIED not in program.lower(jnp.float32(0)).as_text()
        program(jnp.float32(0))
    assert memory.values("train/int") == list(range(COUNT))
    said = [message for message in caplog.messages if "not by the FFI" in message]
    assert len(said) == 1
    assert "which is none of the known ones" in said[0]


@pytest.mark.usefixtures("refused")
def test_the_ffi_on_request_is_an_error_where_it_can_not_serve(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'`transport="ffi"` can.t serve.*pass `"auto"`'):
        MetricsCallback("r", log_dir=tmp_path, backends=Memory(), transport="ffi")
