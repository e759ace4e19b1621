"""SBX and Stable-Baselines3: records equal those of the libraries' own writers."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memory import logging_to_memory
from metriplex import Histogram, Image

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
callbacks = pytest.importorskip("stable_baselines3.common.callbacks")
sb3_logger = pytest.importorskip("stable_baselines3.common.logger")
gymnasium = pytest.importorskip("gymnasium")
torch = pytest.importorskip("torch")
adapter = pytest.importorskip("metriplex.integrations.stable_baselines3")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries' own code

STEPS, ITERATIONS = 64, 4
NAMES = {
    "rollout/ep_rew_mean": "episode/return",
    "rollout/ep_len_mean": "episode/length",
    "eval/mean_reward": "eval/return",
    "eval/mean_ep_length": "eval/length",
}
EXCLUDED = {
    "time/iterations",
    "time/episodes",
    "time/time_elapsed",
    "time/total_timesteps",
    "train/n_updates",
}


def ppo(library):
    """Return a very small PPO on CartPole."""
    return pytest.importorskip(library).PPO(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=STEPS,
        batch_size=32,
        n_epochs=1,
        learning_rate=1e-3,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
    )


@pytest.fixture
def json_logger(tmp_path):
    """Return a logger with the library's own writer."""
    writer = sb3_logger.JSONOutputFormat(str(tmp_path / "theirs.json"))
    yield sb3_logger.Logger(str(tmp_path), [writer])
    writer.close()


def read(logger):
    """Return steps and values of the library's own writer, under our tags."""
    written = (Path(logger.dir) / "theirs.json").read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    return [
        (
            row["time/total_timesteps"],
            {NAMES.get(tag, tag): row[tag] for tag in row.keys() - EXCLUDED},
        )
        for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["sbx", "stable_baselines3"])
def test_ppo_logs_the_values_of_its_own_json_writer(library, tmp_path, json_logger):
    model = ppo(library)
    model.set_logger(json_logger)
    with logging_to_memory(tmp_path, hparams=adapter.hparams(model)) as (metrics, memory):
        model.learn(STEPS * ITERATIONS, callback=adapter.SB3Callback(metrics))
    theirs = read(json_logger)
    assert [(record.step, record.values) for record in memory.records] == theirs
    assert memory.steps() == [STEPS * (i + 1) for i in range(ITERATIONS)]
    for tag in ("episode/return", "episode/length", "time/fps"):
        assert len(memory.values(tag)) == ITERATIONS
    assert memory.values("train/learning_rate") == [pytest.approx(1e-3)] * (ITERATIONS - 1)
    assert memory.values("train/value_loss") == [row["train/value_loss"] for _, row in theirs[1:]]
    (found,) = memory.hparams
    assert found["algorithm"] == "PPO"
    assert (found["n_steps"], found["gamma"], found["seed"]) == (STEPS, 0.99, 0)
    assert found["policy_kwargs/net_arch"] == "[8]"
    assert not found.keys() & {"policy_class", "env", "verbose", "_init_setup_model"}
    assert len(json_logger.output_formats) == 1


@pytest.mark.slow
def test_dqn_continues_in_a_second_run_and_is_evaluated(tmp_path, json_logger):
    model = pytest.importorskip("sbx").DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_starts=16,
        train_freq=16,
        batch_size=8,
        policy_kwargs={"net_arch": [8]},
        seed=0,
    )
    model.set_logger(json_logger)
    evaluation = callbacks.EvalCallback(
        gymnasium.make("CartPole-v1"), n_eval_episodes=2, eval_freq=60, verbose=0
    )
    seen = []
    for run in ("first", "second"):
        with logging_to_memory(tmp_path / run) as (metrics, memory):
            model.learn(
                150,
                callback=[evaluation, adapter.SB3Callback(metrics)],
                log_interval=1,
                reset_num_timesteps=run == "first",
            )
        seen.append([(record.step, record.values) for record in memory.records])
        assert min(memory.values("eval/length")) >= 1
        assert memory.values("eval/return") == memory.values("eval/length")  # CartPole's rewards
    assert [*seen[0], *seen[1]] == read(json_logger)
    assert {60, 120} < {step for step, _ in seen[0]}
    assert {180, 240, 300} < {step for step, _ in seen[1]}
    assert {tag for _, values in seen[0] for tag in values} >= {
        "rollout/exploration_rate",
        "train/critic_loss",
        "episode/return",
    }


@pytest.mark.slow
def test_a_failed_training_does_not_affect_the_next(tmp_path, json_logger):
    model = ppo("stable_baselines3")
    model.set_logger(json_logger)

    def fail(locals_, globals_):
        raise RuntimeError("the environment broke")

    with logging_to_memory(tmp_path / "first") as (metrics, _):
        ours = adapter.SB3Callback(metrics)
        with pytest.raises(RuntimeError, match="broke"):
            model.learn(STEPS, callback=[ours, callbacks.ConvertCallback(fail)])
        model.learn(STEPS, callback=ours)  # the same once more logs once
        with pytest.raises(RuntimeError, match="broke"):
            model.learn(STEPS, callback=[ours, callbacks.ConvertCallback(fail)])
    with logging_to_memory(tmp_path / "second") as (metrics, memory):
        model.learn(STEPS, callback=adapter.SB3Callback(metrics))
    assert memory.steps() == [STEPS]
    assert [step for step, _ in read(json_logger)] == [STEPS, STEPS]


def test_every_type_of_value_of_the_logger_becomes_its_record(tmp_path):
    batch = np.arange(2 * 3 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 3, 4, 5)  # NTCHW
    gray = np.array([[0.0, 0.5], [1.0, 2.0]], np.float32)
    with logging_to_memory(tmp_path) as (metrics, memory):
        logger = sb3_logger.Logger(None, [adapter.MetricsWriter(metrics)])
        logger.record("a/number", np.float32(0.5))
        logger.record("a/tensor", torch.tensor([7], requires_grad=False))
        logger.record("a/flag", True)
        logger.record("a/nothing", None)
        logger.record("a/hidden", 1.0, exclude="tensorboard")
        logger.record("a/ours_not", 1.0, exclude=("stdout", "metriplex"))
        logger.record("a/theirs_not", 2, exclude=("stdout", "csv"))
        logger.record("note", "It *moved*.")
        logger.record("weights", torch.linspace(-1, 1, 100, requires_grad=True))
        logger.record("clip", sb3_logger.Video(torch.from_numpy(batch), fps=20))
        logger.record("rows", sb3_logger.Image(batch[0, 0], "CHW"))
        logger.record("gray", sb3_logger.Image(gray, "HW"))
        logger.record("setup", sb3_logger.HParam({"gamma": 0.9}, {"a/number": 0.0}))
        logger.dump(640)
        logger.record("note", "Only words.")
        logger.dump(704)
        logger.close()  # the run stays open
        metrics.log(768, {"after": 1})
    first, last = memory.records
    assert (first.step, first.values) == (
        640,
        {"a/number": 0.5, "a/tensor": 7, "a/flag": True, "a/theirs_not": 2},
    )
    assert (last.step, last.values) == (768, {"after": 1})
    assert [(text.step, text.tag, text.text) for text in memory.texts] == [
        (640, "note", "It *moved*."),
        (704, "note", "Only words."),
    ]
    (clip,) = memory.videos
    assert (clip.step, clip.tag, clip.fps) == (640, "clip", 20)
    assert clip.frames is not None
    assert clip.frames.shape == (3, 4, 10, 3)
    np.testing.assert_array_equal(clip.frames[:, :, :5], batch[0].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(clip.frames[:, :, 5:], batch[1].transpose(0, 2, 3, 1))
    weights, rows, gray_rows = memory.media
    assert isinstance(weights, Histogram)
    assert isinstance(rows, Image)
    assert isinstance(gray_rows, Image)
    assert (weights.tag, weights.counts.sum()) == ("weights", 100)
    np.testing.assert_array_equal(rows.pixels, batch[0, 0].transpose(1, 2, 0))
    assert gray_rows.pixels[..., 2].tolist() == [[0, 128], [255, 255]]
    assert {record.step for record in memory.media} == {640}
    assert memory.hparams == [{"gamma": 0.9}]


def test_a_figure_is_drawn_and_closed(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed").use("agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    figure = plt.figure(figsize=(2, 1), dpi=50, facecolor="red")
    with logging_to_memory(tmp_path) as (metrics, memory):
        logger = sb3_logger.Logger(None, [adapter.MetricsWriter(metrics)])
        logger.record("plot", sb3_logger.Figure(figure, close=True))
        logger.dump(5)
    (image,) = memory.media
    assert isinstance(image, Image)
    assert (image.step, image.tag, image.pixels.shape) == (5, "plot", (50, 100, 3))
    assert (image.pixels == [255, 0, 0]).all()
    assert not plt.fignum_exists(figure.number)


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class NoText:
    def __str__(self):
        raise RuntimeError("has no text")

    __repr__ = __str__


LEFT_OUT = object()
"""The value is left out with one line in the log."""

VALUES: dict[str, tuple[Any, Any]] = {
    "None": (None, None),
    "masked": (np.ma.masked, None),
    "all masked": (np.ma.array([1.0, 2.0], mask=True), None),
    "object None": (np.array(None), None),
    "bool": (True, True),
    "int": (2**53 + 1, 2**53 + 1),
    "np.uint64": (np.uint64(2**63), 2.0**63),
    "int of 70 bits": (2**70, 2.0**70),
    "negative int of 65 bits": (-(2**64), -(2.0**64)),
    "int beyond floats": (10**400, str(10**400)),
    "IntEnum": (Level.HIGH, 3),
    "float": (0.1, 0.1),
    "np.float16": (np.float16(0.1), float(np.float16(0.1))),
    "np.longdouble": (np.longdouble(0.5), 0.5),
    "np.bool": (np.bool_(True), True),
    "Decimal": (decimal.Decimal("0.5"), 0.5),
    "signaling NaN": (decimal.Decimal("sNaN"), "sNaN"),
    "Fraction": (fractions.Fraction(1, 4), 0.25),
    "tensor of size one": (torch.tensor([[7]]), 7),
    "0-d tensor": (torch.tensor(3.0), 3.0),
    "tensor with a gradient": (torch.ones((), requires_grad=True), 1.0),
    "bfloat16 scalar": (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
    "jax scalar": (jnp.float32(0.5), 0.5),
    "jax bfloat16": (jnp.bfloat16(0.5), 0.5),
    "object array of one number": (np.array([2], object), 2),
    "str": ("a\nb", "a\nb"),
    "np.str_": (np.str_("abc"), "abc"),
    "enum of strings": (Word.YES, "yes"),
    "empty str": ("", ""),
    "bytes": (b"x", "b'x'"),
    "enum": (Color.RED, "Color.RED"),
    "list of ints": ([64, 64], "[64, 64]"),
    "tuple": ((1.0, 2.0), "(1.0, 2.0)"),
    "dict": ({"pi": 64}, "{'pi': 64}"),
    "datetime": (dt.datetime(2020, 1, 1), "2020-01-01 00:00:00"),
    "timedelta": (dt.timedelta(1), "1 day, 0:00:00"),
    "np.datetime64": (
        np.datetime64("2020-01-01T00:00:00.000000001"),
        "2020-01-01T00:00:00.000000001",
    ),
    "np.timedelta64": (np.timedelta64(5, "ns"), "5 nanoseconds"),
    "NaT": (np.datetime64("NaT"), "NaT"),
    "complex": (1j, "1j"),
    "complex tensor": (torch.tensor(1j), "1j"),
    "Path": (Path("/x"), "/x"),
    "device": (torch.device("cpu"), "cpu"),
    "space": (gymnasium.spaces.Discrete(2), "Discrete(2)"),
    "object array": (np.array([None, 1]), "[None 1]"),
    "string array": (np.array(["a", "b"]), "['a' 'b']"),
    "array of one string": (np.array(["a"]), "a"),
    "structured array": (np.zeros(2, [("a", "i4")]), "[(0,) (0,)]"),
    "complex array": (np.array([1j, 2]), "[0.+1.j 2.+0.j]"),
    "meta tensor": (torch.ones(2, device="meta"), "tensor(..., device='meta', size=(2,))"),
    "PRNG key": (jax.random.key(0), str(jax.random.key(0))),
    "tensor": (torch.arange(4, dtype=torch.int64), 4),
    "bfloat16 tensor": (torch.ones(3, dtype=torch.bfloat16), 3),
    "float8 tensor": (torch.ones(3).to(torch.float8_e4m3fn), 3),
    "sparse tensor": (torch.eye(2).to_sparse(), 4),
    "Parameter": (torch.nn.Parameter(torch.ones(2)), 2),
    "jax array": (jnp.ones(5, jnp.bfloat16), 5),
    "bool array": (np.array([True, False]), 2),
    "array with inf": (np.array([np.inf, 1.0]), 1),
    "partly masked": (np.ma.array([1.0, 2.0, 3.0], mask=[True, False, False]), 2),
    "empty array": (np.zeros(0), 0),
    "no text": (NoText(), LEFT_OUT),
    "image of a path": (sb3_logger.Image("a.png", "HWC"), LEFT_OUT),
    "image of two channels": (sb3_logger.Image(np.zeros((2, 2, 2)), "HWC"), LEFT_OUT),
    "video of four axes": (sb3_logger.Video(torch.zeros(2, 3, 4, 5), 20), LEFT_OUT),
    "HParam of any object": (sb3_logger.HParam({"a": Color.RED}, {"b": 0.0}), {"a": "Color.RED"}),
}
"""Name to a value, and to the scalar, text, hyper-parameters or size of the histogram."""


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_of_any_type_is_logged_or_left_out_and_the_next_ones_are_logged(
    kind, tmp_path, caplog
):
    value, wanted = VALUES[kind]
    with logging_to_memory(tmp_path) as (metrics, memory):
        logger = sb3_logger.Logger(None, [adapter.MetricsWriter(metrics)])
        for step in (1, 2):
            logger.record("custom/value", value)
            logger.record("other", step)
            logger.dump(step)
    scalars = [dict(record.values) for record in memory.records]
    assert [one.pop("other") for one in scalars] == [1, 2]
    logged = {
        "scalar": [one["custom/value"] for one in scalars if one],
        "text": [text.text for text in memory.texts],
        "histogram": [one.counts.sum() for one in memory.media if isinstance(one, Histogram)],
        "hparams": memory.hparams,
    }
    is_array = getattr(value, "shape", ()) != () and not isinstance(wanted, str | None)
    if wanted is None or wanted is LEFT_OUT:
        found = "nothing"
    elif isinstance(wanted, str):
        found = "text"
    elif isinstance(wanted, dict):
        found = "hparams"
    else:
        found = "histogram" if is_array and math.prod(value.shape) != 1 else "scalar"
    assert {kind: values for kind, values in logged.items() if values} == (
        {} if found == "nothing" else {found: [wanted, wanted]}
    )
    if found in ("scalar", "text"):
        assert {type(one) for one in logged[found]} == {type(wanted)}
    lines = [line for line in caplog.messages if "custom/value" in line]
    assert len(lines) == (wanted is LEFT_OUT)


@pytest.mark.parametrize("name", ["", 5, "a//b", "/a", "a b", "loss\x1b[31m"])
def test_a_name_of_any_kind_is_logged_or_left_out_alone(name, tmp_path, caplog):
    with logging_to_memory(tmp_path) as (metrics, memory):
        logger = sb3_logger.Logger(None, [adapter.MetricsWriter(metrics)])
        logger.record(name, 0.5)
        logger.record("other", 1)
        logger.dump(3)
    (record,) = memory.records
    assert record.values == {"other": 1} | ({str(name): 0.5} if name != "" else {})


def test_a_name_that_ours_would_replace_keeps_both_values(tmp_path):
    with logging_to_memory(tmp_path) as (metrics, memory):
        logger = sb3_logger.Logger(None, [adapter.MetricsWriter(metrics)])
        logger.record("rollout/ep_rew_mean", 1.0)
        logger.record("episode/return", 2.0)
        logger.dump(3)
    assert memory.records[0].values == {"rollout/ep_rew_mean": 1.0, "episode/return": 2.0}


def test_a_step_that_no_record_can_have_is_left_out_with_one_line(tmp_path, caplog):
    with logging_to_memory(tmp_path) as (metrics, memory):
        logger = sb3_logger.Logger(None, [adapter.MetricsWriter(metrics)])
        for step in (-1, -1, 5):
            logger.record("loss", 1.0)
            logger.dump(step)
    assert memory.steps() == [5]
    assert len([line for line in caplog.messages if "`loss`" in line and "step" in line]) == 1


def test_an_undefined_explained_variance_is_no_error(tmp_path):
    with logging_to_memory(tmp_path) as (metrics, memory):
        logger = sb3_logger.Logger(None, [adapter.MetricsWriter(metrics)])
        for step, variance in enumerate((np.nan, 0.5)):
            logger.record("train/explained_variance", variance)
            logger.record("train/loss", 1.0)
            logger.dump(step)
    assert [dict(record.values) for record in memory.records] == [
        {"train/loss": 1.0},
        {"train/loss": 1.0, "train/explained_variance": 0.5},
    ]
