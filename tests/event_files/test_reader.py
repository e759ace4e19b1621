"""Event files of other writers: tensorboardX, and the messages that TensorFlow 2 writes."""

from __future__ import annotations

import contextlib
import io
import math
import random
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
from tensorboardX import SummaryWriter

from journal.strategies import pixels, same
from metriplex import Histogram, Image, PluginError, Scalars, Text, Video
from metriplex.event_files.protobuf import parse_message
from metriplex.event_files.reader import event_runs
from metriplex.journal import Close, Hparams, Resume

if TYPE_CHECKING:
    from pathlib import Path

Event: Any = getattr(event_pb2, "Event")  # noqa: B009 - protobuf makes these classes at import
Summary: Any = getattr(summary_pb2, "Summary")  # noqa: B009
SummaryMetadata: Any = getattr(summary_pb2, "SummaryMetadata")  # noqa: B009
TensorProto: Any = getattr(tensor_pb2, "TensorProto")  # noqa: B009
TensorShapeProto: Any = getattr(tensor_shape_pb2, "TensorShapeProto")  # noqa: B009


def tfrecord(data: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def scalar(step: int, value: float, tag: str = "loss") -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return Event(wall_time=1.5 + step, step=step, summary=summary).SerializeToString()


def write(directory: Path, *events: bytes, name: str = "events.out.tfevents.1.host") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(b"".join(map(tfrecord, events)))
    return directory / name


def read(directory: Path, reported: list[str] | None = None) -> list[Any]:
    [run] = event_runs(directory)
    found = list(run.entries(None if reported is None else reported.append))
    assert [entry.number for entry in found] == list(range(len(found)))
    return [entry.record for entry in found]


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_event_files_of_tensorboardx(tmp_path: Path) -> None:
    picture = pixels(4, 5, 3)
    with SummaryWriter(str(tmp_path / "a")) as writer:
        writer.add_scalar("loss", 0.1, 2**40, walltime=5.0)
        writer.add_scalar("bad", math.nan, 3, walltime=5.0)
        writer.add_text("note", "hello", 4, walltime=6.0)
        writer.add_image("picture", picture, 5, walltime=7.0, dataformats="HWC")
        writer.add_histogram("weights", np.array([0.0, 1.0, 1.0, 2.0]), 6, walltime=8.0)
    reported: list[str] = []
    loss, bad, note, image, histogram = read(tmp_path, reported)
    assert reported == []
    assert loss == Scalars(2**40, {"loss": float(np.float32(0.1))}, wall_time=5.0)
    assert same(bad, Scalars(3, {"bad": math.nan}, wall_time=5.0))
    assert note == Text(4, "note/text_summary", "hello", wall_time=6.0)
    assert same(image, Image(5, "picture", picture, wall_time=7.0))
    assert isinstance(histogram, Histogram)
    assert (histogram.edges[0], histogram.edges[-1]) == (0.0, 2.0)
    assert histogram.counts.sum() == 4


def test_hyper_parameters_and_the_status_of_a_session(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_hparams({"lr": 0.5, "env": "Pendulum", "norm": True}, {"score": 1.0}, name=".")
    found = [record for record in read(tmp_path) if isinstance(record, Hparams | Close)]
    assert found == [Hparams({"lr": 0.5, "env": "Pendulum", "norm": True}), Close("finished")]


def tensor(plugin: str, tag: str = "t", **fields: Any) -> bytes:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    value = Summary.Value(tag=tag, tensor=TensorProto(**fields))
    if plugin:
        value.metadata.CopyFrom(metadata)
    return Event(wall_time=1.0, step=3, summary=Summary(value=[value])).SerializeToString()


def shape(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def test_tensors_of_tensorflow_2(tmp_path: Path) -> None:
    picture = pixels(2, 3, 3)
    bins = np.array([[0.0, 1.0, 2.0], [1.0, 3.0, 0.0], [3.0, 3.0, 5.0]])
    write(
        tmp_path,
        tensor("scalars", dtype=1, float_val=[0.25]),
        tensor("", dtype=1, tensor_content=struct.pack("<f", 0.5)),
        tensor("scalars", dtype=9, int64_val=[-7]),
        tensor("scalars", dtype=10, bool_val=[True]),
        tensor("scalars", dtype=19, half_val=[0x3C00]),
        tensor("text", "s", dtype=7, string_val=[b"one", b"two"], tensor_shape=shape(2)),
        tensor("images", "i", dtype=7, string_val=[b"3", b"2", png(picture)]),
        tensor("histograms", "h", dtype=2, tensor_content=bins.tobytes(), tensor_shape=shape(3, 3)),
    )
    reported: list[str] = []
    *scalars, text, image, histogram = read(tmp_path, reported)
    assert reported == []
    assert [record.values["t"] for record in scalars] == [0.25, 0.5, -7, True, 1.0]
    assert text == Text(3, "s", "one\n\ntwo", wall_time=1.0)
    assert same(image, Image(3, "i", picture, wall_time=1.0))
    assert histogram.counts.tolist() == [2, 0, 5]
    assert histogram.edges[:3].tolist() == [0.0, 1.0, 3.0]
    assert 3.0 < histogram.edges[3] < 3.0 + 1e-9


def test_a_gif_becomes_a_video(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(array) for array in pixels(3, 4, 6, 3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=40)
    image = Summary.Image(height=4, width=6, encoded_image_string=buffer.getvalue())
    summary = Summary(value=[Summary.Value(tag="eval/video", image=image)])
    write(tmp_path, Event(step=9, summary=summary).SerializeToString())
    [video] = read(tmp_path)
    assert isinstance(video, Video)
    clip = video.clips["gif"]
    assert clip.data == buffer.getvalue()
    assert (clip.width, clip.height, clip.num_frames) == (6, 4, 3)
    assert (clip.fps, clip.duration) == (pytest.approx(25.0), pytest.approx(0.12))


def test_a_restarted_session_supersedes_later_steps(tmp_path: Path) -> None:
    start = {"status": 1}
    write(
        tmp_path,
        scalar(1, 0.5),
        scalar(2, 0.5),
        *2 * [Event(step=2, session_log=start).SerializeToString()],
        scalar(2, 0.75),
    )
    assert [type(record) for record in read(tmp_path)] == [Scalars, Scalars, Resume, Scalars]
    assert read(tmp_path)[2] == Resume(2)


def test_directories_are_runs_and_seeds_are_lanes(tmp_path: Path) -> None:
    top = tmp_path / "logs"
    write(top / "b", scalar(1, 0.5))
    for lane in (0, 11):
        write(top / "b" / f"seed_{lane:03d}", scalar(lane, 0.5))
    write(top / "a" / "train", scalar(2, 0.5), name="events.out.tfevents.2")
    write(top / "a" / "train", scalar(1, 0.5), name="events.out.tfevents.1")
    write(top / "seed_003", scalar(1, 0.5))
    (top / "empty").mkdir()
    (top / "b" / "notes.txt").write_text("no events")
    runs = event_runs(top)
    assert [run.info.name for run in runs] == ["a_train", "b", "seed_003"]
    records: list[list[Any]] = [[entry.record for entry in run.entries()] for run in runs]
    assert [record.step for record in records[0]] == [1, 2]
    assert [record.lane for record in records[1]] == [None, 0, 11]
    assert len({run.info.id for run in runs}) == 3
    assert [run.info.id for run in event_runs(top)] == [run.info.id for run in runs]
    assert event_runs(tmp_path / "logs" / "a" / "train")[0].info.id == runs[0].info.id


# Damage ----------------------------------------------------------------------------------------

EVENTS = [scalar(step, step / 4) for step in range(6)]
WHOLE = b"".join(map(tfrecord, EVENTS))


def check(directory: Path, data: bytes) -> None:
    write(directory)
    (directory / "events.out.tfevents.1.host").write_bytes(data)
    found = read(directory, [])
    expected = {step: Scalars(step, {"loss": step / 4}, wall_time=1.5 + step) for step in range(6)}
    assert all(record == expected[record.step] for record in found)
    kept = [step for step, event in enumerate(EVENTS) if tfrecord(event) in data]
    assert {record.step for record in found} >= set(kept)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


def test_every_byte_flipped_and_every_length(directory: Path) -> None:
    draw = random.Random(0)
    for at in range(len(WHOLE)):
        check(directory, WHOLE[:at])
        check(directory, WHOLE[:at] + bytes([WHOLE[at] ^ draw.randrange(1, 256)]) + WHOLE[at + 1 :])
        check(directory, WHOLE[:at] + WHOLE[at + 1 :])


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=80), at=st.integers(0, len(WHOLE)), gone=st.integers(0, 90))
def test_inserted_and_removed_bytes(directory: Path, data: bytes, at: int, gone: int) -> None:
    check(directory, WHOLE[:at] + data + WHOLE[at + gone :])


SAMPLES = [
    tensor("histograms", dtype=2, tensor_content=bytes(72), tensor_shape=shape(3, 3)),
    tensor("images", dtype=7, string_val=[b"3", b"2", png(pixels(2, 3, 3))]),
    tensor("scalars", dtype=9, int64_val=[-7, 2**40]),
    tensor("hparams", dtype=1),
    scalar(1, 0.5),
]


@settings(max_examples=300, deadline=None)
@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_damaged_messages_with_a_right_checksum(
    directory: Path, sample: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(sample) - 1))
    changed = sample[:at] + data.draw(st.binary(max_size=4)) + sample[at + 1 :]
    write(directory, changed, scalar(5, 0.5))
    assert read(directory)[-1] == Scalars(5, {"loss": 0.5}, wall_time=6.5)


@given(st.binary(max_size=40))
def test_random_bytes_are_a_message_or_raise(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        fields = parse_message(data)
        assert all(isinstance(one, int | bytes) for values in fields.values() for one in values)


def test_damage_is_reported_and_a_torn_end_is_not(tmp_path: Path) -> None:
    path = write(tmp_path, *EVENTS)
    size = len(tfrecord(EVENTS[0]))
    path.write_bytes(WHOLE[: size + 20] + b"x" + WHOLE[size + 21 : -5])
    reported: list[str] = []
    assert [record.step for record in read(tmp_path, reported)] == [0, 2, 3, 4]
    assert reported == [f"{path} at byte {size}: a record is damaged"]


def test_a_missing_package_crc32c_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, *EVENTS)
    monkeypatch.setitem(__import__("sys").modules, "crc32c", None)
    with pytest.raises(PluginError, match=r"pip install 'metriplex\[event-files\]'"):
        read(tmp_path)
