from __future__ import annotations

import inspect
import logging
import re
import threading
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import interpreter
from memory import Memory
from metriplex import (
    ClosedError,
    ConfigurationError,
    JITSummaryWriter,
    LoggingError,
    MetricsCallback,
    TensorBoardCallback,
    callback_with_numpy_wrapper,
)
from metriplex.bridge import receiver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# ---- TensorBoardCallback ------------------------------------------------------------------------


def test_the_signature_is_the_pattern_s() -> None:
    parameters = inspect.signature(TensorBoardCallback).parameters.values()
    assert [(p.name, p.default) for p in parameters] == [
        ("name", None),
        ("env", None),
        ("policy", None),
        ("alpha", 0.9),
        ("log_dir", "logs"),
        ("video_interval", 0),
        ("video_num_steps", 256),
        ("video_width", 640),
        ("video_height", 480),
        ("video_fps", 50.0),
    ]
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def read(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads in a run's directory: tag to steps and values."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_it_logs_to_tensorboard_with_positional_arguments(tmp_path: Path) -> None:
    env, policy = SimpleNamespace(name="CartPole"), SimpleNamespace(name="MLP")
    before = datetime.now().replace(microsecond=0)
    with TensorBoardCallback(None, env, policy, 0.5, tmp_path / "runs") as metrics:
        state = metrics.on_step(metrics.init(2), jnp.ones((3, 2)), jnp.ones((3, 2), bool))
        metrics.on_iteration(state, training_log={"loss": 0.25})
        directory = metrics.directory
    name = re.fullmatch(r"MLP_CartPole_(\d{8}_\d{6})", directory.name)
    assert name is not None
    assert before <= datetime.strptime(name[1], "%Y%m%d_%H%M%S") <= datetime.now()
    assert directory.parent == tmp_path / "runs"
    scalars = read(directory)
    assert scalars.pop("time/steps_per_second", None) is None
    assert scalars == {
        "episode/return": [(6, 1.0)],
        "episode/length": [(6, 1.0)],
        "train/loss": [(6, 0.25)],
    }


def test_alpha_weighs_the_newest_episode(tmp_path: Path) -> None:
    with TensorBoardCallback("a", alpha=0.75, log_dir=tmp_path) as metrics:
        state = metrics.on_step(metrics.init(1), jnp.array([[1.0], [5.0]]), jnp.ones((2, 1)))
        metrics.on_iteration(state)
    assert read(tmp_path / "a")["episode/return"] == [(2, 0.75 * 5.0 + 0.25 * 1.0)]


def test_the_default_directory_is_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TensorBoardCallback() as metrics:
        assert re.fullmatch(r"training_\d{8}_\d{6}", metrics.directory.name)
        assert metrics.directory.parent == tmp_path / "logs"


def test_videos_need_the_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`video_interval=5` needs the environment"):
        TensorBoardCallback("a", log_dir=tmp_path, video_interval=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("video_interval", -1, "int of at least 0"),
        ("video_interval", 1.5, "int of at least 0"),
        ("video_num_steps", 0, "int of at least 1"),
        ("video_width", 0, "int of at least 1"),
        ("video_height", "tall", "int of at least 1"),
        ("video_fps", 0.0, "number above 0"),
        ("video_fps", float("nan"), "number above 0"),
        ("alpha", 0.0, "(0, 1]"),
    ],
)
def test_bad_arguments_of_videos_are_refused(
    tmp_path: Path, option: str, value: Any, expected: str
) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ConfigurationError) as caught:
        TensorBoardCallback(log_dir=tmp_path / "logs", **options)
    for part in (f"`{option}`", f"{value!r}", expected):
        assert part in str(caught.value)
    assert not (tmp_path / "logs").exists()


# ---- JITSummaryWriter ---------------------------------------------------------------------------


def test_the_writer_logs_in_every_kind_of_code(tmp_path: Path) -> None:
    with JITSummaryWriter(tmp_path / "run") as writer:

        @jax.jit
        def jitted(x: jax.Array) -> None:
            writer.add_scalar("jit", x, global_step=2**31 - 1)
            writer.add_dict({"a": x, "b": {"c": x + 1}}, prefix="dict", global_step=7)

        def turn(carry: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            writer.add_scalar("scan", carry * 2, i)
            return carry + 1, None

        writer.add_scalar("eager", 0.5)
        writer.add_scalar("eager", np.float32(1.5), global_step=2**40)
        writer.add_scalar("eager", jnp.bfloat16(2.5), 2**40 + 1)
        jitted(jnp.float32(3))
        jax.block_until_ready(jax.lax.scan(turn, jnp.float32(1), jnp.arange(4))[0])
        writer.flush()
        assert read(tmp_path / "run") == {
            "eager": [(0, 0.5), (2**40, 1.5), (2**40 + 1, 2.5)],
            "jit": [(2**31 - 1, 3.0)],
            "dict/a": [(7, 3.0)],
            "dict/b/c": [(7, 4.0)],
            "scan": [(0, 2.0), (1, 4.0), (2, 6.0), (3, 8.0)],
        }


def test_lanes_of_the_writer_stay_apart(tmp_path: Path) -> None:
    memory = Memory()
    with JITSummaryWriter(tmp_path / "run", backends=memory) as writer:
        jax.jit(jax.vmap(lambda x: writer.add_scalar("x", x, 1)))(jnp.arange(3.0))
    assert [(r.lane, r.step, dict(r.values)) for r in memory.records] == [
        (lane, 1, {"x": float(lane)}) for lane in range(3)
    ]


def test_the_writer_s_directory_is_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with JITSummaryWriter("deep/er/run", backends=[]) as writer:
        assert writer.metrics.directory == tmp_path / "deep" / "er" / "run"
    with JITSummaryWriter("deep/er/run", backends=[]) as writer:
        assert writer.metrics.directory.name == "run_2"
    with JITSummaryWriter(backends=[]) as writer:
        assert writer.metrics.directory.parent == tmp_path / "logs"


@pytest.mark.parametrize("log_dir", ["", ".", "..", "/", 3])
def test_a_directory_that_cannot_be_the_writer_s_is_refused(log_dir: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        JITSummaryWriter(log_dir, backends=[])
    assert "directory of the run's own" in str(caught.value)
    assert repr(log_dir) in str(caught.value)


def test_a_closed_writer_refuses(tmp_path: Path) -> None:
    writer = JITSummaryWriter(tmp_path / "run", backends=[])
    writer.close()
    writer.close()
    with pytest.raises(ClosedError, match="run `run` is closed"):
        writer.add_scalar("a", 1.0, 0)
    with pytest.raises(ClosedError, match="run `run` is closed"):
        jax.jit(lambda: writer.add_dict({"a": 1.0}))()
    with pytest.raises(ClosedError, match="run `run` is closed"):
        writer.flush()
    with pytest.raises(ClosedError, match="run `run` is closed"), writer:
        pass


@pytest.mark.parametrize(
    ("tag", "value", "named"),
    [(3, 1.0, "got 3"), ("", 1.0, "got ''"), ("a", np.zeros(3), "`a`"), ("a", "x", "`a`")],
    ids=["number", "empty", "array", "text"],
)
def test_the_writer_names_what_it_cannot_log(
    tmp_path: Path, tag: Any, value: Any, named: str
) -> None:
    with JITSummaryWriter(tmp_path / "run", backends=[]) as writer:
        for step in (0, jnp.int32(0)):
            with pytest.raises(LoggingError, match=named):
                writer.add_scalar(tag, value, step)
        with pytest.raises(LoggingError, match="`step`"):
            writer.add_scalar("a", 1.0, 0.5)
        with pytest.raises(LoggingError, match="`step`"):
            jax.jit(lambda step: writer.add_scalar("a", 1.0, step))(0.5)


# ---- callback_with_numpy_wrapper ----------------------------------------------------------------


class Calls:
    """Keeps the arguments with which it was called."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append((*args, kwargs) if kwargs else args)
        self.threads.add(threading.current_thread().name)


def record() -> tuple[Calls, Any]:
    calls = Calls()
    return calls, callback_with_numpy_wrapper(calls.__call__)


DTYPES = [
    *("bool", "int4", "int8", "uint8", "int16", "uint16", "int32", "uint32"),
    *("float16", "bfloat16", "float8_e4m3fn", "float32"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.long
def test_every_dtype_arrives_bit_for_bit(dtype: str) -> None:
    calls, log = record()
    array = jnp.asarray([[0, 1, 2], [3, 5, 7]], jnp.dtype(dtype))
    log(array)
    jax.jit(log)(array)
    jax.jit(lambda x: log(x[0, 2]))(array)
    receiver.barrier()
    assert [type(seen[0]) for seen in calls.seen] == [np.ndarray] * 3
    assert [seen[0].dtype for seen in calls.seen] == [jnp.dtype(dtype)] * 3
    assert [seen[0].shape for seen in calls.seen] == [(2, 3), (2, 3), ()]
    for (seen,), expected in zip(calls.seen, (array, array, array[0, 2]), strict=True):
        assert seen.tobytes() == np.asarray(expected).tobytes()


def test_even_signalling_nans_keep_their_bits() -> None:
    calls, log = record()
    bits = np.array([0x7F800001, 0xFF812345, 0x80000000, 0x00000001, 0x7FC00000], np.uint32)
    jax.jit(log)(bits.view(np.float32))
    jax.jit(lambda x: log(x[1]))(bits.view(np.float32))
    receiver.barrier()
    assert calls.seen[0][0].view(np.uint32).tolist() == bits.tolist()
    assert calls.seen[1][0].view(np.uint32) == bits[1]


def test_numpy_s_64_bits_and_python_s_numbers_are_exact_without_x64() -> None:
    calls, log = record()
    wide = np.array([2**63 - 1, -(2**63)])
    log(wide, np.float64(0.1), 0.1, 2**62 + 1, 2**80, True, 1, 1.0)
    receiver.barrier()
    ((array, double, *numbers),) = calls.seen
    assert array.dtype == np.int64
    assert array.tolist() == wide.tolist()
    assert (double.dtype, double.item()) == (np.float64, 0.1)
    assert numbers == [0.1, 2**62 + 1, 2**80, True, 1, 1.0]
    assert [type(number) for number in numbers] == [float, int, int, bool, int, float]


def test_trees_keywords_and_static_leaves_arrive_as_they_were() -> None:
    calls, log = record()
    tag = SimpleNamespace(name="static")

    @jax.jit
    def program(x: jax.Array) -> None:
        log({"x": [x, None, "text"]}, tag, scale=(x * 2, 3), flag=None)

    program(jnp.arange(2.0))
    receiver.barrier()
    ((tree, same, keywords),) = calls.seen
    assert tree["x"][0].tolist() == [0.0, 1.0]
    assert tree["x"][1:] == [None, "text"]
    assert same is tag
    assert keywords["scale"][0].tolist() == [0.0, 2.0]
    assert (keywords["scale"][1], keywords["flag"]) == (3, None)


def test_a_leaf_that_cannot_be_hashed_is_passed_on() -> None:
    calls, log = record()
    for names in ({"a"}, {"b"}):
        log(names, jnp.int32(1))
    receiver.barrier()
    assert [(seen[0], int(seen[1])) for seen in calls.seen] == [({"a"}, 1), ({"b"}, 1)]


def test_calls_come_in_order_under_scan() -> None:
    calls, log = record()

    @jax.jit
    def program() -> jax.Array:
        def turn(i: jax.Array, _: None) -> tuple[jax.Array, None]:
            log(i)
            return i + 1, None

        return jax.lax.scan(turn, jnp.int32(0), length=200)[0]

    program()
    receiver.barrier()
    assert [int(seen[0]) for seen in calls.seen] == list(range(200))
    assert calls.threads == {"metriplex-receiver"}


def test_each_lane_is_a_call_in_order() -> None:
    calls, log = record()
    x = jnp.arange(12.0).reshape(3, 2, 2)
    jax.jit(jax.vmap(jax.vmap(lambda row: log(row, "lane"))))(x)
    receiver.barrier()
    assert [seen[0].tolist() for seen in calls.seen] == x.reshape(6, 2).tolist()
    assert {seen[1] for seen in calls.seen} == {"lane"}


def test_a_gradient_passes_by() -> None:
    calls, log = record()

    def loss(x: jax.Array) -> jax.Array:
        log(x)
        return x**2

    assert float(jax.jit(jax.grad(loss))(3.0)) == 6.0
    receiver.barrier()
    assert [float(seen[0]) for seen in calls.seen] == [3.0]


class Failure(BaseException):
    """Not even an `Exception`."""


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), Failure("worse")], ids=repr)
def test_what_the_function_raises_is_logged_and_stops_nothing(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    seen = []

    @callback_with_numpy_wrapper
    def fragile(x: np.ndarray) -> None:
        seen.append(int(x))
        if x == 1:
            raise error

    with caplog.at_level(logging.ERROR, "metriplex"):
        y = jax.jit(jax.vmap(lambda x: (fragile(x), x + 1)[1]))(jnp.arange(4))
        receiver.barrier()
    assert y.tolist() == [1, 2, 3, 4]
    assert seen == [0, 1, 2, 3]
    (logged,) = caplog.records
    assert "fragile" in logged.getMessage()
    assert isinstance(logged.exc_info, tuple)
    assert logged.exc_info[1] is error


def test_the_function_may_use_jax() -> None:
    sums = []
    log = callback_with_numpy_wrapper(lambda x: sums.append(float(jnp.sum(x))))
    jax.jit(log)(jnp.arange(4.0))
    receiver.barrier()
    assert sums == [6.0]


def test_a_wrapper_keeps_its_name_and_a_loop_needs_one_handle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered = []
    register = receiver.register
    monkeypatch.setattr(
        receiver, "register", lambda sink: (registered.append(sink), register(sink))[1]
    )

    @callback_with_numpy_wrapper
    def hello(i: int, x: object) -> None:
        """Says hello."""

    for i in range(20):
        hello(i, jnp.float32(i))
    hello(0.5, jnp.float32(0))  # ty: ignore[invalid-argument-type] - another type, another handle
    assert (hello.__name__, hello.__doc__) == ("hello", "Says hello.")
    assert len(registered) == 2


@pytest.mark.parametrize(
    ("make", "mend"),
    [
        (lambda: jax.random.key(0), "key_data"),
        (lambda: jnp.zeros(2, jnp.complex64), "real and imaginary"),
    ],
    ids=["key", "complex"],
)
def test_an_array_that_cannot_cross_is_refused_at_trace_time(
    make: Callable[[], jax.Array], mend: str
) -> None:
    calls, log = record()
    argument = make()
    for call in (log, jax.jit(log)):
        with pytest.raises(LoggingError, match=mend) as caught:
            call({"a": argument})
        assert str(argument.dtype) in str(caught.value)
    assert calls.seen == []


@pytest.mark.parametrize("what", [None, 3, "f"])
def test_only_functions_can_be_wrapped(what: Any) -> None:
    with pytest.raises(ConfigurationError, match="wraps a function; got") as caught:
        callback_with_numpy_wrapper(what)
    assert repr(what) in str(caught.value)


def test_a_normal_end_of_the_process_waits_for_the_calls() -> None:
    program = """
        import jax, jax.numpy as jnp
        from metriplex import callback_with_numpy_wrapper
        log = callback_with_numpy_wrapper(lambda i: print(int(i), flush=True))
        def turn(i, _):
            log(i)
            return i + 1, None
        jax.jit(lambda: jax.lax.scan(turn, jnp.int32(0), length=100))()
    """
    result = interpreter.run(program)
    assert result.returncode == 0
    assert result.stdout.split() == [str(i) for i in range(100)]
    assert result.stderr == ""


def test_a_callback_may_be_constructed_in_a_host_function(tmp_path: Path) -> None:
    memory = Memory()
    errors = []

    @callback_with_numpy_wrapper
    def start(x: np.ndarray) -> None:
        try:
            with MetricsCallback("inner", log_dir=tmp_path, backends=memory) as metrics:
                metrics.log(3, {"x": x})
        except BaseException as error:
            errors.append(error)

    jax.jit(start)(jnp.float32(0.5))
    receiver.barrier()
    assert errors == []
    assert [(r.step, dict(r.values)) for r in memory.records] == [(3, {"x": 0.5})]
