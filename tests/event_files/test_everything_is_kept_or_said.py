"""What an event file holds is in the records, or a sentence says that it is not."""

from __future__ import annotations

import io
import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as Pillow
from tensorboardX import SummaryWriter

from event_files.test_reader import (
    EVENTS,
    Event,
    Summary,
    png,
    read,
    scalar,
    shape,
    tensor,
    tfrecord,
    write,
)
from journal.strategies import pixels, same
from memory import Memory
from metriplex import ConfigurationError, Histogram, Image, MetricsCallback, Scalars, Text, Video
from metriplex.commands.main import main
from metriplex.event_files.reader import STATE, event_runs
from metriplex.event_files.replay import replay_events
from metriplex.event_files.tfrecord import read_records
from metriplex.journal import Hparams

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def picture(encode: Callable[[io.BytesIO], object], tag: str = "p") -> bytes:
    buffer = io.BytesIO()
    encode(buffer)
    image = Summary.Image(height=4, width=6, encoded_image_string=buffer.getvalue())
    return Event(
        step=3, summary=Summary(value=[Summary.Value(tag=tag, image=image)])
    ).SerializeToString()


def animated(kind: str, durations: list[int], **options: Any) -> bytes:
    """Return an animation with the durations of its frames, in milliseconds."""
    shots = [Pillow.fromarray(array) for array in pixels(len(durations), 4, 6, 3)]
    return picture(
        lambda file: shots[0].save(
            file, kind, save_all=True, append_images=shots[1:], duration=durations, **options
        )
    )


# Durations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("durations", [[20] * 5, [40] * 5, [200] * 5, [20, 500, 70], [1000, 10]])
@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_keeps_the_duration_of_its_frames(
    tmp_path: Path, kind: str, durations: list[int]
) -> None:
    write(tmp_path, animated(kind, durations))
    reported: list[str] = []
    [video] = read(tmp_path, reported)
    assert isinstance(video, Video)
    clip = video.clips[kind.lower()]
    assert reported == []
    assert clip.num_frames == len(durations)
    assert clip.duration == pytest.approx(sum(durations) / 1000)
    assert clip.fps == video.fps == pytest.approx(len(durations) / clip.duration)


@pytest.mark.parametrize("fps", [5.0, 25.0, 50.0])
@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_clip_that_was_logged_comes_back_with_its_rate(
    tmp_path: Path, kind: str, fps: float
) -> None:
    with MetricsCallback(
        "run", log_dir=tmp_path, backends={"tensorboard": {"video_format": kind}}, provenance=False
    ) as metrics:
        metrics.log_video("eval/video", pixels(10, 24, 32, 3), fps=fps, step=1)
    [video] = [record for record in read(tmp_path, []) if isinstance(record, Video)]
    assert video.fps == pytest.approx(fps)
    assert video.clips[kind].duration == pytest.approx(10 / fps)


# Kept ------------------------------------------------------------------------------------------


def test_two_values_of_one_tag_in_one_event_are_both_kept(tmp_path: Path) -> None:
    pairs = (("a", 1), ("b", 2), ("a", 3))
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in pairs]
    write(tmp_path, Event(step=1, summary=Summary(value=values)).SerializeToString())
    assert [dict(record.values) for record in read(tmp_path)] == [{"a": 1, "b": 2}, {"a": 3}]


def test_all_images_of_a_batch_are_kept(tmp_path: Path) -> None:
    shots = pixels(3, 2, 3, 3)
    write(tmp_path, tensor("images", "i", dtype=7, string_val=[b"3", b"2", *map(png, shots)]))
    reported: list[str] = []
    found = read(tmp_path, reported)
    assert [record.tag for record in found] == ["i", "i/1", "i/2"]
    assert all(np.array_equal(one.pixels, shot) for one, shot in zip(found, shots, strict=True))
    assert reported == []


def test_hyper_parameters_of_every_type_are_kept(tmp_path: Path) -> None:
    from google.protobuf import struct_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    messages: Any = struct_pb2  # protobuf makes these classes at import
    plugin_data: Any = plugin_data_pb2
    value = messages.Value
    inner = messages.Struct(fields={"b": value(bool_value=True), "n": value(null_value=0)})
    layers = messages.ListValue(values=[value(number_value=64.0)])
    values = {
        "lr": value(number_value=0.5),
        "env": value(string_value="x"),
        "on": value(bool_value=False),
        "none": value(null_value=0),
        "layers": value(list_value=layers),
        "nested": value(struct_value=inner),
    }
    data = plugin_data.HParamsPluginData(
        session_start_info=plugin_data.SessionStartInfo(hparams=values)
    )
    session = Summary.Value(tag="_hparams_/session_start_info")
    session.metadata.plugin_data.plugin_name = "hparams"
    session.metadata.plugin_data.content = data.SerializeToString()
    write(tmp_path, Event(summary=Summary(value=[session])).SerializeToString())
    [found] = read(tmp_path)
    assert found == Hparams(
        {
            "lr": 0.5,
            "env": "x",
            "on": False,
            "none": "None",
            "layers": "[64.0]",
            "nested": "{'b': True, 'n': None}",
        }
    )


# Said ------------------------------------------------------------------------------------------


def test_kinds_without_a_record_are_named_and_counted(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar("loss", 1.0, step)
            writer.add_pr_curve("pr", np.array([0, 1, 1]), np.array([0.1, 0.5, 0.9]), step)
        writer.add_mesh("mesh", np.zeros((1, 3, 3), np.float32), global_step=1)
        writer.add_custom_scalars({"all": {"loss": ["Multiline", ["loss"]]}})
    [path] = tmp_path.glob("*tfevents*")
    sound = Summary.Value(tag="voice", audio=Summary.Audio(sample_rate=8000.0))
    with path.open("ab") as file:
        for event in (
            Event(step=1, graph_def=b"graph"),
            Event(step=1, meta_graph_def=b"meta"),
            Event(step=1, log_message={"message": "note"}),
            Event(step=1, summary=Summary(value=[sound])),
            Event(step=2, summary=Summary(value=[sound])),
        ):
            file.write(tfrecord(event.SerializeToString()))
    reported: list[str] = []
    assert [record.step for record in read(tmp_path, reported)] == [0, 1, 2]
    text = "\n".join(reported)
    assert "3 value(s) of `pr` left out: metriplex has no record for tensors of plugin" in text
    assert "of `mesh" in text
    assert "1 value(s) of `custom_scalars__config__` left out" in text
    assert "2 value(s) of `voice` left out: metriplex has no record for sound" in text
    for kind in ("a graph", "a meta graph", "a log message"):
        assert f"{path}: 1 x {kind} left out, which metriplex has no record for" in reported


def rgba(alpha: int) -> np.ndarray:
    return np.dstack([pixels(4, 6, 3), np.full((4, 6), alpha, np.uint8)])


CHANGED = {
    "transparent": (picture(lambda f: Pillow.fromarray(rgba(7)).save(f, "PNG")), Image, "RGBA"),
    "16 bits": (
        picture(lambda f: Pillow.fromarray(np.full((4, 6), 700, np.uint16)).save(f, "PNG")),
        Image,
        "mode I;16 become RGB",
    ),
    "animated PNG": (animated("PNG", [50] * 3), Image, "only the first of its 3 frames"),
    "text": (tensor("text", dtype=7, string_val=[b"a\xff"]), Text, "no UTF-8 are replaced"),
    "fractions": (
        tensor(
            "histograms",
            dtype=2,
            tensor_content=np.array([[0.0, 1.0, 2.5]]).tobytes(),
            tensor_shape=shape(1, 3),
        ),
        Histogram,
        "counts are rounded",
    ),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_value_that_is_changed_is_said_and_kept(tmp_path: Path, kind: str) -> None:
    event, record, sentence = CHANGED[kind]
    write(tmp_path, event)
    reported: list[str] = []
    [found] = read(tmp_path, reported)
    assert isinstance(found, record)
    assert len(reported) == 1
    assert sentence in reported[0]
    assert "at step 3 is changed: " in reported[0]


def test_opaque_pixels_of_any_mode_are_not_changed(tmp_path: Path) -> None:
    grey = pixels(4, 6)
    for event, expected in (
        (picture(lambda f: Pillow.fromarray(rgba(255)).save(f, "PNG")), rgba(255)[..., :3]),
        (picture(lambda f: Pillow.fromarray(grey).save(f, "PNG")), np.dstack([grey] * 3)),
    ):
        write(tmp_path, event)
        reported: list[str] = []
        [found] = read(tmp_path, reported)
        assert np.array_equal(found.pixels, expected)
        assert reported == []


# Damage ----------------------------------------------------------------------------------------


def test_holes_and_nested_records_are_passed_in_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are the bytes that are read for each byte of the file."""
    good = tfrecord(EVENTS[0])
    head = tfrecord(bytes(2**15))[:12]  # of a record whose data is wrong
    fillers = {"zeros": bytes(2**18), "heads": 2**13 * head, "ones": 2**18 * b"\xff"}
    for name, filler in fillers.items():
        path = tmp_path / name
        path.write_bytes(good + filler + good)
        read_bytes = 0

        class Counted(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                nonlocal read_bytes
                data = super().read(-1 if size is None else size)
                read_bytes += len(data)
                return data

        monkeypatch.setattr(
            "metriplex.event_files.tfrecord.open_file", lambda path, **_: Counted(path)
        )
        reported: list[str] = []
        found = list(read_records(path, reported.append))
        assert found == [EVENTS[0]] * (1 if name == "heads" else 2)
        assert len(reported) == (2 if name == "heads" else 1)
        assert read_bytes <= 12 * path.stat().st_size


def test_a_length_beyond_all_records_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(tfrecord(EVENTS[0]) + tfrecord_head(2**40) + tfrecord(EVENTS[1]))
    with path.open("r+b") as file:
        file.truncate(2**41)  # sparse
    found = read_records(path, lambda _: None)
    assert [next(found), next(found)] == [EVENTS[0], EVENTS[1]]


def tfrecord_head(length: int) -> bytes:
    return struct.pack("<Q", length) + tfrecord(struct.pack("<Q", length))[-4:]


def damaged(log_dir: Path) -> None:
    data = bytearray(b"".join(map(tfrecord, EVENTS)))
    data[150] ^= 0xFF
    write(log_dir)
    (log_dir / "events.out.tfevents.1.host").write_bytes(data)
    with SummaryWriter(str(log_dir)) as writer:
        writer.add_pr_curve("pr", np.array([0, 1, 1]), np.array([0.1, 0.5, 0.9]), 3)


def test_a_replay_says_what_it_leaves_out_each_time_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged(tmp_path / "logs")
    for call in range(2):
        command = ["replay", str(tmp_path / "logs"), "--from", "tensorboard", "--to", "console"]
        assert main(command) == 1
        printed = capsys.readouterr()
        assert "metriplex: " in printed.err
        assert "a record is damaged" in printed.err
        assert "1 value(s) of `pr` left out" in printed.err
        assert ("5 record(s) sent" if call == 0 else "0 record(s) sent") in printed.out
        assert "nothing is left" not in printed.out


# Links and directories -------------------------------------------------------------------------


def test_links_are_followed_each_directory_is_one_run_and_loops_end(tmp_path: Path) -> None:
    """TensorBoard follows links, and recommends log directories of links."""
    real = tmp_path / "real"
    for name in ("a", "b", "c/deep"):
        write(real / name, scalar(1, 0.5))
    top = tmp_path / "selected"
    (top / "inner").mkdir(parents=True)
    (top / "good").symlink_to(real / "a")
    assert [run.info.name for run in event_runs(top)] == ["good"]
    (top / "inner" / "up").symlink_to(top)
    (top / "again").symlink_to(top / "good")
    (top / "deep").symlink_to(real / "c")
    (top / "gone").symlink_to(tmp_path / "nothing")
    write(top / "plain", scalar(2, 0.5))
    (top / "latest").symlink_to(top / "plain")
    (top / "a_latest").symlink_to(top / "plain")
    names = [run.info.name for run in event_runs(top)]
    assert sorted(names) in (["again", "deep_deep", "plain"], ["deep_deep", "good", "plain"])
    assert len({run.info.id for run in event_runs(top)}) == 3
    (top / "plain" / "events.out.tfevents.9.linked").symlink_to(
        real / "b" / "events.out.tfevents.1.host"
    )
    [plain] = [run for run in event_runs(top) if run.info.name == "plain"]
    found: list[Any] = [entry.record for entry in plain.entries()]
    assert [record.step for record in found] == [2, 1]


def test_what_is_no_file_is_said_and_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path, scalar(1, 0.5))
    os.mkfifo(tmp_path / "events.out.tfevents.2.pipe")
    (tmp_path / "events.out.tfevents.3.zeros").symlink_to("/dev/zero")
    (tmp_path / "events.out.tfevents.4.gone").symlink_to(tmp_path / "nothing")
    reported: list[str] = []
    assert [record.step for record in read(tmp_path, reported)] == [1]
    assert [one.rpartition(".")[2] for one in reported] == [
        f"{name} is left out: it is no regular file" for name in ("pipe", "zeros", "gone")
    ]


@pytest.mark.parametrize("kind", ["file", "link", "read-only"])
def test_a_log_directory_that_can_not_be_written_is_an_error_of_the_user(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    write(logs / "a", scalar(1, 0.5))
    if kind == "file":
        (logs / "a" / STATE).write_text("")
    elif kind == "link":
        (tmp_path / "home").mkdir()
        (logs / "a" / STATE).symlink_to(tmp_path / "home")
    else:
        if os.geteuid() == 0:
            pytest.skip("root writes everywhere")
        (logs / "a").chmod(0o500)
    [run] = event_runs(logs)
    assert [entry.record for entry in run.entries()] == [Scalars(1, {"loss": 0.5}, wall_time=2.5)]
    with pytest.raises(ConfigurationError, match="without which a repetition would send"):
        replay_events(logs, Memory())
    assert main(["replay", str(logs), "--from", "tensorboard", "--to", "console"]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "or replay a copy of the log directory" in printed.err
    if kind == "link":
        assert list((tmp_path / "home").iterdir()) == []


def test_nothing_to_read_is_an_error_that_names_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.out.tfevents.1.host"
    file.write_bytes(b"")
    for path, why in ((file, "Not a directory"), (tmp_path / "none", "No such file")):
        assert main(["replay", str(path), "--from", "tensorboard", "--to", "console"]) == 2
        error = capsys.readouterr().err
        assert "there are no event files" in error
        assert why in error


def test_what_metriplex_writes_is_read_without_a_word(tmp_path: Path) -> None:
    with MetricsCallback(
        "run", log_dir=tmp_path, backends="tensorboard", hparams={"lr": 0.1, "none": None}
    ) as metrics:
        metrics.log(1, {"a": 1.0, "b": True})
        metrics.log_text("note", "é", step=1)
        metrics.log_image("picture", pixels(4, 6, 3), step=1)
        metrics.log_histogram("weights", np.arange(9.0), step=1)
        metrics.log_video("video", pixels(3, 24, 32, 3), fps=10, step=1)
    reported: list[str] = []
    found = read(tmp_path, reported)
    assert reported == []
    assert same(next(one for one in found if isinstance(one, Image)).pixels, pixels(4, 6, 3))
