"""Invalid arguments: the message says what was given, what was expected and how to fix it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import Memory, logging_to_memory
from metriplex import ConfigurationError, LoggingError, MetricsCallback, MetriplexError, PluginError
from metriplex.device import state as device
from metriplex.device.checks import check_where
from metriplex.device.config import Config, make_config
from metriplex.run.hparams import check_hparams
from metriplex.validation import check_count, check_step

if TYPE_CHECKING:
    from pathlib import Path

DEFAULTS: dict[str, Any] = {
    "alpha": 0.9,
    "episode_stats": False,
    "reduce": None,
    "learning_rate": None,
    "log_every": 1,
    "buffer": 0,
    "buffer_width": 64,
    "axis_name": None,
    "abort": False,
}

RANGE = "in (0, 1]"


def config_of(**changes: Any) -> Config:
    arguments: dict[str, Any] = {**DEFAULTS, **changes}
    return make_config(**arguments)


CONSTRUCTION: list[tuple[dict[str, Any], list[str]]] = [
    *[
        ({"alpha": bad}, ["`alpha`", repr(bad), RANGE, "0.9"])
        for bad in (0, -1, 1.5, float("nan"), float("inf"), True, "0.9", None, [0.9])
    ],
    ({"buffer": -1}, ["`buffer`", "int of at least 0", "-1", "pass 0 or more"]),
    ({"buffer": 2.5}, ["`buffer`", "int of at least 0", "2.5", "pass 0 or more"]),
    ({"buffer_width": 0}, ["`buffer_width`", "int of at least 1", "got 0"]),
    ({"log_every": 0}, ["`log_every`", "int of at least 1", "got 0", "pass 1 or more"]),
    ({"log_every": True}, ["`log_every`", "int of at least 1", "True"]),
    ({"queue_size": 0}, ["`queue_size`", "int of at least 1", "got 0"]),
    ({"total_steps": 0}, ["`total_steps`", "int of at least 1", "got 0"]),
    ({"total_steps": 1e6}, ["`total_steps`", "1000000.0", "pass `int(total_steps)`"]),
    (
        {"nonfinite": "ignore"},
        ["`nonfinite`", "'ignore'", "'error', 'raise', 'abort', 'warn', 'keep'"],
    ),
    ({"nonfinite": ["error"]}, ["`nonfinite`", "['error']", "'keep'"]),
    ({"reduce": "sum"}, ["`reduce`", "'sum'", "None, 'mean'"]),
    ({"axis_name": 3}, ["`axis_name`", "got 3", "tuple of strings", '"seeds"']),
    ({"axis_name": ("a", 1)}, ["`axis_name`", "('a', 1)", "tuple of strings"]),
    ({"learning_rate": "fast"}, ["`learning_rate`", "'fast'", "number or an optax schedule"]),
    ({"learning_rate": "3e-4"}, ["`learning_rate`", "'3e-4'", "for example 3e-4"]),
    ({"learning_rate": True}, ["`learning_rate`", "True", "optax.linear_schedule"]),
    ({"learning_rate": np.ones(2)}, ["`learning_rate`", "[1., 1.]", "number"]),
    ({"hparams": 3}, ["`hparams`", "got 3 of type `int`", "a dictionary, a dataclass"]),
    ({"log_dir": 3}, ["`log_dir`", "got 3", "non-empty path"]),
    ({"log_dir": ""}, ["`log_dir`", "''", "non-empty path"]),
    ({"name": 3}, ["`name`", "got 3", "string or None"]),
    ({"backends": 7}, ["`backends`", "got 7", "name of an installed backend"]),
    (
        {"backends": "wandbb"},
        ["`wandbb`", "not installed", "Installed: ", "`tensorboard`", "pip install metriplex-"],
    ),
    ({"backends": {"tensorboard": {"flush_sec": 1}}}, ["flush_sec", "`flush_secs`", "accepts"]),
]


def show(case: object) -> str:
    return str(case) if isinstance(case, dict) else ""


@pytest.mark.parametrize(("arguments", "parts"), CONSTRUCTION, ids=show)
def test_a_bad_argument_is_refused_before_anything_is_made(
    tmp_path: Path, arguments: dict[str, Any], parts: list[str]
) -> None:
    everything: dict[str, Any] = {"log_dir": tmp_path / "logs", "backends": [], **arguments}
    with pytest.raises(MetriplexError) as caught:
        MetricsCallback(**everything)
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, ConfigurationError | LoggingError | PluginError)
    assert not (tmp_path / "logs").exists()


def test_a_log_dir_that_is_a_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "logs"
    file.write_text("")
    with pytest.raises(ConfigurationError, match=r"`log_dir` '.*logs'.*remove it, or give another"):
        MetricsCallback(log_dir=file, backends=[])
    with pytest.raises(ConfigurationError, match="a part of the path is a file"):
        MetricsCallback(log_dir=file / "below", backends=[])


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".", "/etc", "a\\b", ""])
def test_a_name_cannot_leave_log_dir(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MetricsCallback(name, log_dir=tmp_path / "logs", backends=[])
    assert f"{name!r}" in str(caught.value)
    assert "directory under `log_dir`" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


Call = Callable[[MetricsCallback], object]

CALLS: list[tuple[str, Call, list[str]]] = [
    ("no environments", lambda m: m.init(0), ["`num_envs`", "positive int", "got 0"]),
    ("float environments", lambda m: m.init(2.0), ["`num_envs`", "positive int", "got 2.0"]),  # ty: ignore[invalid-argument-type] - the point
    (
        "mismatched done",
        lambda m: m.on_step(m.init(4), jnp.zeros(4), jnp.zeros(3, bool)),
        ["`reward` has shape (4,)", "`done` has shape (3,)", "must be (4,)", "To mend it"],
    ),
    (
        "transposed rollout",
        lambda m: m.on_step(m.init(4), jnp.zeros((4, 9)), jnp.zeros((4, 9), bool)),
        ["(4, 9)", "(time, 4)", "transpose both"],
    ),
    (
        "both ends",
        lambda m: m.on_step(m.init(1), jnp.zeros(1), jnp.zeros(1), terminated=jnp.zeros(1)),
        ["`on_step` got both of", "`done`", "`terminated`", "pass `done`, or"],
    ),
    (
        "no ends",
        lambda m: m.on_step(m.init(1), jnp.zeros(1)),
        ["`on_step` got neither of", "pass `done`, or `terminated` and `truncated`"],
    ),
    (
        "ends of two shapes",
        lambda m: m.on_step(
            m.init(2), jnp.zeros(2), terminated=jnp.zeros(2), truncated=jnp.zeros(3)
        ),
        ["`terminated` has shape [2]", "`truncated` [3]", "the shape of `reward`"],
    ),
    (
        "float iteration",
        lambda m: m.on_iteration(m.init(1), iteration=1.5),
        ["`iteration` must be one integer", "got float"],
    ),
    (
        "many iterations",
        lambda m: m.on_iteration(m.init(1), iteration=jnp.arange(3)),
        ["`iteration` must be one integer", "int32 [3]"],
    ),
    (
        "many gates",
        lambda m: m.on_iteration(m.init(1), where=jnp.ones(3, bool)),
        ["`where` must be one bool", "[3]", "`.any()`"],
    ),
    (
        "a gate of text",
        lambda m: m.on_iteration(m.init(1), where="yes"),  # ty: ignore[invalid-argument-type] - the point
        ["`where` must be one bool", "<U3"],
    ),
    (
        "no state",
        lambda m: m.on_step(None, jnp.zeros(1), jnp.zeros(1)),  # ty: ignore[invalid-argument-type] - the point
        ["`state` must be what `init`", "got None", "metrics.init(num_envs)"],
    ),
    (
        "a state of another callback",
        lambda m: m.on_iteration(device.init(Config(buffer=3, episode_stats=True), 1, None)),
        ["`episode_stats=True` and `buffer=3`", "has `episode_stats=False` and `buffer=0`", "init"],
    ),
    (
        "a tag that is no string",
        lambda m: m.on_iteration(m.init(1), training_log={3: 1.0}),
        ["got 3 (int)", "must be strings", "`str(key)`"],
    ),
    (
        "no scalar",
        lambda m: m.on_iteration(m.init(1), training_log={"a": {"loss": jnp.zeros((2, 3))}}),
        ["`train/a/loss`", "(2, 3)", "one element", "jnp.mean", 'reduce="mean"'],
    ),
    (
        "no number",
        lambda m: m.on_iteration(m.init(1), training_log={"loss": "low"}),
        ["`train/loss`", "str", "real number", "Leave it out"],
    ),
    (
        "no names",
        lambda m: m.on_iteration(m.init(1), training_log=[1.0]),
        ["`training_log` must have names", "list", '{"loss": loss}'],
    ),
    (
        "a negative step",
        lambda m: m.log(-1, {"a": 1}),
        ["`step`", "from 0 to 2**64 - 1", "got -1", "`int(step)`"],
    ),
    (
        "a float step",
        lambda m: m.log(1.0, {"a": 1}),
        ["`step` must be one integer", "got 1.0", "`int(step)`"],
    ),
    ("a bool step", lambda m: m.log(True, {"a": 1}), ["`step`", "got True"]),
    ("many steps", lambda m: m.log(np.arange(2), {"a": 1}), ["`step`", "array([0, 1])"]),
    ("log without names", lambda m: m.log(0, [1.0]), ["must have names", "list"]),  # ty: ignore[invalid-argument-type] - the point
    ("log no number", lambda m: m.log(0, {"a": "x"}), ["`a`", "str", "real number"]),
    ("a tag of text", lambda m: m.log_text(3, "x"), ["tag", "got 3", "string", '"train/loss"']),  # ty: ignore[invalid-argument-type] - the point
    ("no text", lambda m: m.log_text("a", 3), ["`text`", "got 3", "string", "`str(text)`"]),  # ty: ignore[invalid-argument-type] - the point
    ("an empty tag", lambda m: m.log_video("", frames(), fps=1), ["tag", "''", "not empty"]),
    ("float frames", lambda m: m.log_video("v", np.zeros((1, 2, 2, 3)), fps=1), ["`v`", "uint8"]),
    ("no fps", lambda m: m.log_video("v", frames(), fps=0), ["`fps`", "got 0", "`v`", "positive"]),
    ("a video's step", lambda m: m.log_video("v", frames(), fps=1, step=-2), ["`step`", "got -2"]),
    ("hparams", lambda m: m.log_hparams([1]), ["`hparams`", "got [1]", "a dictionary"]),
]  # fmt: skip


def frames() -> np.ndarray:
    return np.zeros((2, 4, 4, 3), np.uint8)


@pytest.fixture(scope="module")
def open_metrics(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with logging_to_memory(tmp_path_factory.mktemp("logs")) as (metrics, memory):
        yield metrics
        metrics.flush()
        assert memory.records == memory.texts == memory.videos == memory.hparams == []


@pytest.mark.parametrize(("call", "parts"), [case[1:] for case in CALLS], ids=[c[0] for c in CALLS])
def test_a_bad_call_is_refused_and_logs_nothing(
    open_metrics: MetricsCallback, call: Call, parts: list[str]
) -> None:
    with pytest.raises((LoggingError, ConfigurationError)) as caught:
        call(open_metrics)
    for part in parts:
        assert part in str(caught.value)


def test_a_buffer_that_is_too_narrow_names_the_width_that_works(tmp_path: Path) -> None:
    log = {f"value_{i}": float(i) for i in range(40)}
    with (
        logging_to_memory(tmp_path, buffer=2, buffer_width=10) as (metrics, _),
        pytest.raises(LoggingError, match=r"takes (\d+) words, and `buffer_width` is 10") as caught,
    ):
        metrics.on_iteration(metrics.init(1), training_log=log)
    needed = int(str(caught.value).split("`buffer_width=")[1].rstrip("`"))
    with logging_to_memory(tmp_path, buffer=2, buffer_width=needed) as (metrics, memory):
        state = metrics.on_iteration(metrics.init(1), training_log=log)
        metrics.on_training_end(state)
    assert memory.values("train/value_39") == [39.0]
    with (
        logging_to_memory(tmp_path, buffer=2, buffer_width=needed - 1) as (metrics, _),
        pytest.raises(LoggingError, match=f"`buffer_width={needed}`"),
    ):
        metrics.on_iteration(metrics.init(1), training_log=log)


# ---- what is usable -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_min=True))
def test_every_alpha_in_the_range_is_kept(alpha: float) -> None:
    assert config_of(alpha=alpha) == Config(alpha=alpha)


@pytest.mark.parametrize("number", [1, np.float32(0.5), np.int64(1), np.float64(0.25)])
def test_numbers_of_numpy_are_numbers(number: Any) -> None:
    config = config_of(alpha=number, learning_rate=number)
    assert (config.alpha, config.learning_rate) == (float(number), float(number))
    assert type(config.alpha) is float


@pytest.mark.parametrize("count", [1, np.int32(1), np.uint64(1)])
def test_counts_may_be_of_numpy(count: Any) -> None:
    assert check_count("n", count, least=1) == 1
    assert type(check_count("n", count, least=1)) is int


def test_equal_arguments_make_equal_configurations() -> None:
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    first, second = (config_of(learning_rate=schedule, axis_name=["a", "b"]) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first.axis_name == ("a", "b")


def test_a_schedule_that_cannot_be_hashed_still_makes_a_hashable_configuration() -> None:
    @final
    @dataclasses.dataclass
    class Constant:
        rate: float

        def __call__(self, count: object) -> float:
            return self.rate

    config = config_of(learning_rate=Constant(0.5))
    assert isinstance(hash(config), int)
    assert callable(config.learning_rate)
    assert config.learning_rate(jnp.int32(3)) == 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_every_step_of_64_bits_is_kept(step: int) -> None:
    assert check_step(step) == step
    assert check_step(np.uint64(step)) == step
    assert check_step(np.asarray([step], np.uint64)) == step


@pytest.mark.parametrize("step", [2**64, -1, np.int8(-1), np.bool_(True), None, "3", [1, 2]])
def test_other_steps_are_refused(step: Any) -> None:
    with pytest.raises(LoggingError, match="must be one integer from 0 to"):
        check_step(step)


def test_hparams_may_be_a_dataclass_or_none() -> None:
    config = Config()
    assert check_hparams(config) is config
    assert check_hparams(None) == {}


def test_a_gate_may_be_of_numpy_or_of_the_program() -> None:
    assert check_where(False) is False
    assert bool(check_where(np.bool_(True))) is True
    assert jax.jit(check_where)(jnp.int32(0)).dtype == bool


def test_a_dataclass_of_hyper_parameters_is_logged_flat(tmp_path: Path) -> None:
    @final
    @dataclasses.dataclass
    class Optimizer:
        rate: float = 1e-3
        betas: tuple[float, float] = (0.9, 0.99)

    memory = Memory()
    hparams = {"seed": 3, "optimizer": Optimizer(), "net": {"act": jnp.tanh, "wide": True}}
    with MetricsCallback(log_dir=tmp_path, backends=memory, hparams=hparams) as metrics:
        metrics.log_hparams({"late": np.float32(0.5)})
    assert memory.hparams == [
        {
            "seed": 3,
            "optimizer/rate": 1e-3,
            "optimizer/betas": "(0.9, 0.99)",
            "net/act": memory.hparams[0]["net/act"],
            "net/wide": True,
        },
        {"late": 0.5},
    ]
    assert "tanh" in str(memory.hparams[0]["net/act"])
