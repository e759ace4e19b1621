"""The hooks, read back by TensorBoard and compared with tensorboardX's own writer."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboardX import SummaryWriter

import metriplex
from metriplex import ClosedError, ConfigurationError, Scalars, Text, Video
from metriplex_tensorboard import TensorBoardBackend

STEPS = [0, 1, 2**31 - 1, 2**31, 5_000_000_001, 2**53 + 1, 2**63 - 1]
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
VALUES: list[bool | int | float] = [
    True,
    7,
    -(2**31) - 1,
    2**63,
    0.1,
    1e-45,
    1e300,
    math.pi,
    math.inf,
    -math.inf,
]


def without_wall_times(events: list[Any]) -> list[bytes]:
    for event in events:
        assert event.wall_time > 0
        event.ClearField("wall_time")
    return [event.SerializeToString(deterministic=True) for event in events]


def test_entry_point_gives_a_backend_with_every_hook() -> None:
    from importlib.metadata import entry_points

    [entry_point] = entry_points(group="metriplex.backends", name="tensorboard")

    assert entry_point.load() is TensorBoardBackend
    marked = {
        name
        for name in dir(TensorBoardBackend)
        if hasattr(getattr(TensorBoardBackend, name), "metriplex_impl")
    }
    assert marked == {
        "open_run",
        "log_hparams",
        "log_scalars",
        "log_text",
        "log_video",
        "log_image",
        "log_histogram",
        "flush",
        "close_run",
    }


def test_scalars_read_back_as_add_scalar_writes_them(tmp_path, make_run, read_events) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    with SummaryWriter(str(tmp_path / "peer")) as peer:
        for step in STEPS:
            for index, value in enumerate(VALUES):
                peer.add_scalar(f"train/value_{index}", value, step)
                record = Scalars(step, {f"train/value_{index}": value}, wall_time=1.7e9)
                backend.log_scalars(run, [record])
    backend.close_run(run, "finished")

    ours, theirs = read_events(run.directory), read_events(tmp_path / "peer")

    assert len(ours) == 1 + len(STEPS) * len(VALUES)
    assert without_wall_times(ours) == without_wall_times(theirs)


def test_all_values_of_a_step_are_one_event(make_run, read_events) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)

    values = {f"train/{index}": float(index) for index in range(20)}
    backend.log_scalars(run, [Scalars(10, values, wall_time=1.5e9), Scalars(20, values)])
    backend.close_run(run, "finished")

    version, first, second = read_events(run.directory)
    assert version.file_version == "brain.Event:2"
    assert {value.tag: value.simple_value for value in first.summary.value} == values
    assert (first.step, first.wall_time, second.step) == (10, 1.5e9, 20)


def test_accumulator_reads_exactly_what_was_logged(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    records = [
        Scalars(step, {"episode/return": index / 3, "train/loss": index}, wall_time=1.7e9 + index)
        for index, step in enumerate(range(0, 5 * 10**9, 10**7 + 1))
    ]

    backend.log_scalars(run, records)
    backend.close_run(run, "finished")

    read = accumulate(run.directory)
    assert read.Tags()["scalars"] == ["episode/return", "train/loss"]
    assert [
        (event.wall_time, event.step, event.value) for event in read.Scalars("episode/return")
    ] == [
        (record.wall_time, record.step, float(np.float32(record.values["episode/return"])))
        for record in records
    ]


def test_unknown_learning_rate_is_written_as_nan(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)

    backend.log_scalars(run, [Scalars(1, {"train/learning_rate": math.nan})])
    backend.close_run(run, "finished")

    [event] = accumulate(run.directory).Scalars("train/learning_rate")
    assert math.isnan(event.value)


def test_text_reads_back_as_add_text_writes_it(tmp_path, make_run, read_events) -> None:
    texts = [("notes", "# Title\n\nπ ≈ 3"), ("notes", ""), ("a tag/with *", "x" * 10_000)]
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    with SummaryWriter(str(tmp_path / "peer")) as peer:
        for step, (tag, text) in enumerate(texts):
            peer.add_text(tag, text, step)
            backend.log_text(run, Text(step, tag, text))
    backend.close_run(run, "finished")

    ours, theirs = read_events(run.directory), read_events(tmp_path / "peer")

    assert without_wall_times(ours) == without_wall_times(theirs)


def test_an_image_reads_back_as_add_image_writes_it(tmp_path, make_run, read_events) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    with SummaryWriter(str(tmp_path / "peer")) as peer:
        peer.add_image("eval/frame", pixels, 3, dataformats="HWC")
    backend.log_image(run, metriplex.Image(3, "eval/frame", pixels))
    backend.close_run(run, "finished")

    ours, theirs = read_events(run.directory), read_events(tmp_path / "peer")

    assert without_wall_times(ours) == without_wall_times(theirs)


def test_a_histogram_reads_back_as_it_was_logged(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    edges = np.array([-1.0, 0.0, 0.5, 4.0])
    backend.log_histogram(run, metriplex.Histogram(5, "weights", np.array([2, 0, 7]), edges))
    backend.close_run(run, "finished")

    [event] = accumulate(run.directory).Histograms("weights")

    value = event.histogram_value
    assert (event.step, value.min, value.max, value.num) == (5, -1.0, 4.0, 9.0)
    assert value.sum == 2 * -0.5 + 7 * 2.25
    assert value.sum_squares == 2 * 0.25 + 7 * 2.25**2
    assert list(value.bucket_limit) == [-1.0, 0.0, 0.5, 4.0]
    assert list(value.bucket) == [0.0, 2.0, 0.0, 7.0]


def test_hparams_read_back_as_add_hparams_writes_them(tmp_path, make_run, read_events) -> None:
    hparams = {
        "lr": 3e-4,
        "num_envs": 4,
        "seed": 2**62,
        "anneal": True,
        "env/name": "CartPole",
        "empty": "",
    }
    metrics = ["episode/return", "eval/score"]
    backend, run = TensorBoardBackend(hparam_metrics=metrics), make_run()
    backend.open_run(run)
    backend.log_hparams(run, hparams)
    backend.close_run(run, "finished")
    with SummaryWriter(str(tmp_path / "peer")) as peer:
        peer.add_hparams(hparams, dict.fromkeys(metrics, 0.0), name="phantom")

    ours = read_events(run.directory)
    theirs = read_events(tmp_path / "peer" / "phantom")[: -len(metrics)]

    assert len(ours) == 4
    assert without_wall_times(ours) == without_wall_times(theirs)
    assert [path.is_dir() for path in run.directory.iterdir()] == [False], "no phantom run"


def test_hparams_that_are_not_finite_are_text_that_the_tab_can_show(
    make_run, read_events, caplog
) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_hparams(run, {"clip": math.inf, "low": -math.inf, "nan": math.nan, "lr": 0.5})
    backend.close_run(run, "finished")

    [value] = read_events(run.directory)[2].summary.value
    start = hparams_metadata.parse_session_start_info_plugin_data(
        value.metadata.plugin_data.content
    )

    assert json_format.MessageToDict(start)["hparams"] == {
        "clip": "inf",
        "low": "-inf",
        "nan": "nan",
        "lr": 0.5,
    }
    assert caplog.messages == []


@pytest.mark.parametrize(("status", "number"), [("finished", 1), ("failed", 2), ("interrupted", 0)])
def test_session_ends_with_the_status_of_the_run(
    make_run, read_events, status: str, number: int
) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_hparams(run, {"lr": 0.1})
    backend.close_run(run, status)

    [value] = read_events(run.directory)[-1].summary.value
    end = hparams_metadata.parse_session_end_info_plugin_data(value.metadata.plugin_data.content)

    assert value.tag == "_hparams_/session_end_info"
    assert end.status == number


def test_run_without_hparams_has_no_session(make_run, read_events) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.close_run(run, "finished")

    assert [event.file_version for event in read_events(run.directory)] == ["brain.Event:2"]


@pytest.mark.parametrize(
    "tag", ["../../etc/passwd", "/abs", "a b*?", "", "\0", "ключ/🙂", "x" * 10_000, "a\nb"]
)
def test_hostile_tag_is_stored_as_it_is_and_touches_no_file(
    tmp_path, make_run, read_events, tag: str
) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    frames = np.zeros((1, 1, 1, 3), dtype=np.uint8)

    backend.log_scalars(run, [Scalars(1, {tag: 1.0}), Scalars(2, {})])
    backend.log_text(run, Text(3, tag, tag))
    backend.log_video(run, Video(4, tag, frames, fps=1.0))
    backend.log_hparams(run, {tag or "-": tag})
    backend.close_run(run, "finished")

    events = read_events(run.directory)[1:]
    tags = [[value.tag for value in event.summary.value] for event in events[:4]]
    assert tags == [[tag], [], [f"{tag}/text_summary"], [tag]]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_lanes_are_runs_of_their_own(make_run, accumulate) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    frames = np.zeros((1, 2, 2, 3), dtype=np.uint8)

    backend.log_scalars(
        run,
        [Scalars(step, {"a": step + lane}, lane=lane) for step in range(5) for lane in range(3)],
    )
    backend.log_scalars(run, [Scalars(9, {"mean": 1.0})])
    backend.log_text(run, Text(1, "note", "two", lane=2))
    backend.log_video(run, Video(1, "clip", frames, fps=1.0, lane=7))
    backend.close_run(run, "finished")

    for lane in range(3):
        read = accumulate(run.directory / f"seed_00{lane}")
        assert [(event.step, event.value) for event in read.Scalars("a")] == [
            (step, step + lane) for step in range(5)
        ]
    assert accumulate(run.directory / "seed_002").Tags()["tensors"] == ["note/text_summary"]
    assert accumulate(run.directory / "seed_007").Tags()["images"] == ["clip"]
    assert accumulate(run.directory).Tags()["scalars"] == ["mean"]


def test_two_runs_in_one_directory_overwrite_nothing(make_run, read_events) -> None:
    first, second = make_run(), make_run()
    backends = TensorBoardBackend(), TensorBoardBackend()
    for _ in range(3):
        for backend, run in zip(backends, (first, second), strict=True):
            fresh = make_run(run.directory)
            backend.open_run(fresh)
            backend.log_scalars(fresh, [Scalars(1, {"a": 1.0})])
            backend.close_run(fresh, "finished")

    assert len(list(first.directory.iterdir())) == 6
    assert sum(event.HasField("summary") for event in read_events(first.directory)) == 6


def test_one_backend_serves_two_runs_in_two_threads(tmp_path, make_run, accumulate) -> None:
    backend = TensorBoardBackend()
    runs = [make_run(tmp_path / name) for name in ("one", "two")]

    def train(run: metriplex.RunInfo) -> None:
        backend.open_run(run)
        for step in range(500):
            backend.log_scalars(run, [Scalars(step, {run.name: step})])
        backend.close_run(run, "finished")

    threads = [threading.Thread(target=train, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for run in runs:
        read = accumulate(run.directory)
        assert read.Tags()["scalars"] == [run.name]
        assert [event.step for event in read.Scalars(run.name)] == list(range(500))


def test_nothing_is_printed_and_no_thread_is_left(make_run, capfd) -> None:
    before = set(threading.enumerate())
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(1, {"bad tag": 1.0})])
    backend.writer(run).add_scalar("bad tag", 1.0, 1)
    backend.log_video(run, Video(1, "v", np.zeros((2, 2, 2, 3), np.uint8), fps=50.0))
    backend.close_run(run, "finished")

    assert capfd.readouterr() == ("", "")
    assert set(threading.enumerate()) == before


def test_closing_twice_does_nothing(make_run, read_events) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_hparams(run, {"lr": 0.1})
    backend.close_run(run, "failed")
    before = read_events(run.directory)

    backend.close_run(run, "finished")

    assert read_events(run.directory) == before


def test_use_after_close_is_an_error_that_says_so(make_run) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.close_run(run, "finished")

    calls = [
        lambda: backend.open_run(run),
        lambda: backend.log_scalars(run, [Scalars(1, {"a": 1.0})]),
        lambda: backend.log_text(run, Text(1, "a", "b")),
        lambda: backend.log_hparams(run, {"a": 1}),
        lambda: backend.flush(run),
        lambda: backend.writer(run),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match=r"run `run` was closed: log before `close`"):
            call()


def test_use_before_open_is_an_error_that_says_so(make_run) -> None:
    with pytest.raises(ClosedError, match="run `run` is not open: call `open_run`"):
        TensorBoardBackend().flush(make_run())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flush_secs": 0}, "`flush_secs` must be a positive number of seconds; got 0"),
        ({"flush_secs": math.nan}, "`flush_secs` must be a positive number of seconds; got nan"),
        ({"purge_step": -1}, "`purge_step` must be a step from 0 on, or None; got -1"),
        ({"filename_suffix": "../x"}, "can't hold a path separator; got '../x'"),
        ({"hparam_metrics": "loss"}, r"got the string 'loss': write `\['loss'\]`"),
    ],
)
def test_unusable_option_is_an_error_that_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TensorBoardBackend(**options)


def test_unknown_status_is_an_error_that_says_so(make_run) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)

    with pytest.raises(ConfigurationError, match=r"`status` must be one of .* got 'done'"):
        backend.close_run(run, "done")
