"""Test how a backend stores texts, videos, images, histograms and artifacts."""

from __future__ import annotations

import abc
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from metriplex.records import Artifact, Histogram, Image, Text, Video
from metriplex.testing.clips import read_clip
from metriplex.testing.contract.base import ContractBase, check_names
from metriplex.video.encode.clip import encode_video

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex.records import Media
    from metriplex.testing.session import Session

_TEXTS = (
    *("hello", "# title\n\n- one\n- two", "θ 🙂 损失", "<b>&amp;</b>", "  spaces  ", '{"a": 1}'),
    "long " * 20_000,
)
_EPOCH = 1.7e9

_COLOUR_TOLERANCE = 24
"""Maximal difference of a frame's mean colour: encoders round, and mix colours at edges."""


class MediaTests(ContractBase, abc.ABC):
    """Tests of media: every record is stored completely, at its step and in its lane."""

    subject = "media"

    def test_texts(self) -> None:
        """Texts are stored unchanged: Markdown, any script, 100,000 characters.

        To fix it, don't strip or escape; store a text that is too long for a field as a file.
        """
        session = self._open("log_text")
        for step, text in enumerate(_TEXTS):
            session.media(Text(step, "notes/all", text, wall_time=time.time()))
        session.media(Text(2**31 + 1, "notes/other", "late", wall_time=time.time()))
        session.close()
        expected = {"notes/all": list(enumerate(_TEXTS)), "notes/other": [(2**31 + 1, "late")]}
        for found, texts in self._pairs(session, "texts", expected):
            for got, (step, text) in zip(found, texts, strict=True):
                same = tuple(got) == (step, text)
                assert same, f"the text at step {step} must be {text[:80]!r}; stored is {got!r:.80}"

    @pytest.mark.parametrize(
        ("frames", "height", "width"),
        [(5, 33, 17), (1, 16, 16), (120, 16, 24)],
        ids=["odd size", "one frame", "many frames"],
    )
    def test_videos(self, frames: int, height: int, width: int) -> None:
        """Videos of any size and length are stored with all frames, in order and colour.

        To fix it, encode the video with `metriplex.encode_video(video, format)`, which pads odd
        sizes, and store the file unchanged.
        """
        session = self._open("log_video")
        clip = _frames(frames, height, width)
        session.media(Video(2**31 + 1, "eval/video", clip, 25.0, wall_time=time.time()))
        session.close()
        self._check_videos(session, [(2**31 + 1, clip)])

    def test_videos_that_are_encoded_already(self) -> None:
        """Evaluation videos, which are encoded in `video_format` and have no frames, are stored.

        To fix it, call `metriplex.encode_video`, which accepts both, and don't read `video.frames`.
        """
        session = self._open("log_video")
        pictures = _frames(4, 32, 48)
        kind = session.backend.video_format
        clip = encode_video(Video(0, "x", pictures, 25.0), kind)
        for step in (10, 20):
            session.media(Video(step, "eval/video", None, 25.0, clips={kind: clip}))
        session.close()
        self._check_videos(session, [(10, pictures), (20, pictures)])

    def test_images(self) -> None:
        """Images of any size, from one pixel on, are stored with exact pixels.

        To fix it, store PNG, not JPEG, and don't scale or pad.
        """
        session = self._open("log_image")
        generator = np.random.default_rng(0)
        sizes = [(1, 1), (7, 3), (64, 48)]
        pictures = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        for step, pixels in enumerate(pictures):
            session.media(Image(step, "plots/noise", pixels, wall_time=time.time()))
        session.close()
        logged = {"plots/noise": list(enumerate(pictures))}
        ((found, images),) = self._pairs(session, "images", logged)
        for (got_step, got), (step, pixels) in zip(found, images, strict=True):
            assert got_step == step, f"the picture of step {step} is stored at step {got_step}"
            assert np.array_equal(got, pixels), f"the picture of step {step} is another"

    def test_histograms(self) -> None:
        """Histograms are stored with their counts and edges, which may be uneven.

        To fix it, pass the counts and edges to the service; don't let it count again.
        """
        session = self._open("log_histogram")
        cases = [
            (np.array([3, 0, 5, 1]), np.array([-1.5, 0.0, 0.25, 2.0, 1000.0])),
            (np.array([7]), np.array([0.0, 1.0])),
            (np.arange(64), np.linspace(-1.0, 1.0, 65)),
        ]
        for step, (counts, edges) in enumerate(cases):
            session.media(Histogram(step, "weights", counts, edges, wall_time=time.time()))
        session.close()
        ((found, _),) = self._pairs(session, "histograms", {"weights": cases})
        assert len(found) == len(cases), (
            f"{len(cases)} histograms were logged; stored are {len(found)}"
        )
        for step, (got, (counts, edges)) in enumerate(zip(found, cases, strict=True)):
            assert got[0] == step, f"the histogram of step {step} is stored at step {got[0]}"
            assert np.array_equal(got[1], counts), f"step {step}: the counts are {got[1]}"
            assert np.allclose(got[2], edges, 1e-6, 1e-9), f"step {step}: edges are {got[2]}"

    def test_artifacts(self) -> None:
        """Files and directories are stored under their names, with exact bytes.

        To fix it, copy the file at `artifact.path` in binary mode; walk through a directory.
        """
        session = self._open("log_artifact")
        weights, notes = bytes(range(256)) * 4096, "θ\n".encode()
        files = {"policy.npz": weights, "empty": b"", "deep/er/notes ü.txt": notes}
        folder = self._artifact_file(session, "step_5/checkpoint", files)
        single = self._artifact_file(session, "step_6", {"config.json": b"{}"}) / "config.json"
        session.media(Artifact(5, "checkpoints/last", folder, wall_time=time.time()))
        session.media(Artifact(6, "config.json", single, wall_time=time.time()))
        session.close()
        expected = {f"checkpoints/last/{name}": [(5, data)] for name, data in files.items()}
        self._check_artifacts(session, {**expected, "config.json": [(6, b"{}")]})

    def test_artifacts_of_one_name(self) -> None:
        """An artifact that is logged again at a later step is stored beside the earlier one.

        To fix it, make the step part of the artifact's path, or a version of the artifact.
        """
        session = self._open("log_artifact")
        for step in (1, 2):
            data = {"policy.npz": b"at %d" % step}
            path = self._artifact_file(session, f"step_{step}", data) / "policy.npz"
            session.media(Artifact(step, "policy.npz", path, wall_time=time.time()))
        session.close()
        self._check_artifacts(session, {"policy.npz": [(1, b"at 1"), (2, b"at 2")]})

    def test_media_of_lanes(self) -> None:
        """Media of a lane are stored with the lane, media without a lane with the run.

        To fix it, use `lane` in every hook, not only in `log_scalars`.
        """
        session = self._open()
        hooks = {"log_text": "texts", "log_video": "videos", "log_image": "images"}
        hooks |= {"log_histogram": "histograms", "log_artifact": "artifacts"}
        implemented = {hook: name for hook, name in hooks.items() if hook in session.backend.hooks}
        if not implemented:
            pytest.skip("the backend implements no hook for media")
        file = self._artifact_file(session, "step_4", {"one": b"1"}) / "one"
        for lane in (None, 0, 1):
            for record in one_of_each(lane, file):
                session.media(record)
        session.close()
        stored = self._read(session.run)
        for hook, name in implemented.items():
            tag = "one" if hook == "log_artifact" else self.stored_tag("media/x")
            check_names(
                f"(lane, tag) of {name}", [(x, tag) for x in (None, 0, 1)], getattr(stored, name)
            )

    def test_wall_times_of_media_are_kept(self) -> None:
        """The time of every text, clip, picture and histogram is stored, in the same form.

        Media wait, and are sent again, as scalars are. To fix it, pass `wall_time` of the record to
        the service.
        """
        session = self._open()
        pixels = np.full((16, 16, 3), 100, np.uint8)
        counts, edges = np.array([1, 2]), np.array([0.0, 1.0, 2.0])
        media: dict[str, Text | Video | Image | Histogram] = {
            "log_text": Text(4, "times/text", "hello", wall_time=_EPOCH + 0.25),
            "log_video": Video(4, "times/video", pixels[None], 25.0, wall_time=_EPOCH + 0.5),
            "log_image": Image(4, "times/image", pixels, wall_time=_EPOCH + 0.75),
            "log_histogram": Histogram(4, "times/h", counts, edges, wall_time=_EPOCH + 1.0),
        }
        logged = [record for hook, record in media.items() if hook in session.backend.hooks]
        if not logged:
            pytest.skip("the backend implements no hook for media")
        for record in logged:
            session.media(record)
        session.close()
        found = self._read(session.run).wall_times
        for record in logged:
            stored = self.stored_wall_time(record.wall_time)
            expected = [] if stored is None else [(record.step, stored)]
            got = list(found.get((None, self.stored_tag(record.tag)), ()))
            assert got == expected, (
                f"the time of `{record.tag}` must be {expected}, as (step, ...); `read_back` gives "
                f"{got}"
            )

    # ---- helpers --------------------------------------------------------------------------------

    def _pairs(
        self, session: Session, kind: str, logged: Mapping[str, Sequence[Any]]
    ) -> list[tuple[Sequence[Any], Sequence[Any]]]:
        """Return the stored and the logged records of every tag; fail if the tags differ."""
        found = getattr(self._read(session.run), kind)
        wanted = {(None, self.stored_tag(tag)): records for tag, records in logged.items()}
        check_names("(lane, tag)", wanted, found)
        return [(found[series], records) for series, records in wanted.items()]

    def _check_videos(self, session: Session, clips: Sequence[tuple[int, np.ndarray]]) -> None:
        ((found, _),) = self._pairs(session, "videos", {"eval/video": clips})
        steps = [step for step, _ in found]
        assert steps == [step for step, _ in clips], f"clips are stored at steps {steps}"
        for (_, data), (_, frames) in zip(found, clips, strict=True):
            _compare_clip(read_clip(data), frames)

    def _check_artifacts(
        self, session: Session, expected: Mapping[str, Sequence[tuple[int, bytes]]]
    ) -> None:
        found = self._read(session.run).artifacts
        check_names("(lane, name)", [(None, name) for name in expected], found)
        for name, files in expected.items():
            got = sorted(found[None, name], key=lambda file: (file[0] is not None, file[0]))
            sizes = [len(data) for _, data in got]
            assert [data for _, data in got] == [data for _, data in files], (
                f"artifact `{name}`: {[len(data) for _, data in files]} bytes were logged; other "
                f"content is stored, {sizes} bytes"
            )
            steps = [step for step, _ in got if step is not None]
            assert steps in ([], [step for step, _ in files]), f"`{name}` is at steps {steps}"

    def _artifact_file(self, session: Session, place: str, files: Mapping[str, bytes]) -> Any:
        folder = session.run.directory / "artifacts" / place
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


def one_of_each(lane: int | None, file: Any) -> list[Media]:
    """Return a record of every medium; `file` is the file of the artifact."""
    now, pixels = time.time(), np.full((16, 16, 3), 100, np.uint8)
    return [
        Text(4, "media/x", "hello", lane, now),
        Video(4, "media/x", pixels[None], 25.0, lane, now),
        Image(4, "media/x", pixels, lane, now),
        Histogram(4, "media/x", np.array([1, 2]), np.array([0.0, 1.0, 2.0]), lane, now),
        Artifact(4, "one", file, lane, now),
    ]


def _frames(count: int, height: int, width: int) -> np.ndarray:
    """Return frames of one colour each, where consecutive colours differ clearly."""
    level = 20 + 40 * (np.arange(count) % 6)
    colours = np.stack([level, 255 - level, np.full(count, 128)], axis=-1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (count, height, width, 3)).copy()


def _compare_clip(got: np.ndarray, wanted: np.ndarray) -> None:
    count, height, width, _ = wanted.shape
    sizes = [(height, width), (height + height % 2, width + width % 2)]
    assert got.shape[1:3] in sizes, (
        f"frames of {height} x {width} pixels were logged; stored are {list(got.shape[1:3])}"
    )
    assert len(got) == count, f"a clip of {count} frames was logged; stored are {len(got)}"
    difference = np.abs(
        got[:, : height - 1 or 1, : width - 1 or 1].mean((1, 2)) - wanted.mean((1, 2))
    ).max(-1)
    worst = int(difference.argmax())
    assert difference[worst] <= _COLOUR_TOLERANCE, (
        f"frame {worst} must be {wanted[worst, 0, 0].tolist()} in colour; stored is "
        f"{got[worst].mean((0, 1)).round().tolist()}"
    )
