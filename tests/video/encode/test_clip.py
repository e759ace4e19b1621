"""Clips, decoded again by Pillow and by ffmpeg."""

from __future__ import annotations

import io
import math
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

import interpreter
from metriplex.errors import VideoError
from metriplex.video.encode import clip as clips
from metriplex.video.encode.clip import Clip, ClipEncoder, encode
from metriplex.video.encode.ffmpeg import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Iterator

FFMPEG = find_ffmpeg() or ""


@pytest.fixture(params=["ffmpeg", "no ffmpeg"])
def any_ffmpeg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no ffmpeg":
        monkeypatch.setattr(clips, "find_ffmpeg", lambda: None)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the directory of temporary files, which must be empty at the end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def scene(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A shaded scene of many colors in which a bright square moves."""
    rows, columns = np.mgrid[0:height, 0:width].astype(float)
    frames = np.empty((count, height, width, 3), np.uint8)
    for index in range(count):
        frames[index, ..., 0] = 60 + 120 * rows / height
        frames[index, ..., 1] = 90 + 60 * columns / width
        frames[index, ..., 2] = 100 + 50 * np.sin((columns + rows) / 9)
        left = (width - 8) * index // max(count - 1, 1)
        frames[index, height // 3 : height // 3 + 8, left : left + 8] = (250, 220, 40)
    return frames


def flat(count: int, height: int = 30, width: int = 40) -> np.ndarray:
    """Few colors: a block that moves by a pixel a frame."""
    frames = np.full((count, height, width, 3), 255, np.uint8)
    for index in range(count):
        frames[index, 10:20, index % width] = (200, 30, 30)
    return frames


def decode(clip: Clip) -> np.ndarray:
    """All frames, uint8 `[time, height, width, 3]`."""
    if clip.format == "mp4":
        width, height = clip.width + clip.width % 2, clip.height + clip.height % 2
        command = [FFMPEG, "-v", "error", "-i", "-", "-fps_mode", "passthrough"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        raw = subprocess.run(command, input=clip.data, capture_output=True, check=True).stdout
        return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    with Image.open(io.BytesIO(clip.data)) as image:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])


def durations(clip: Clip) -> list[int]:
    """Milliseconds for which each frame of a GIF or WebP is shown."""
    with Image.open(io.BytesIO(clip.data)) as image:
        found = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            found.append(int(image.info["duration"]))
        return found


def psnr(got: np.ndarray, expected: np.ndarray) -> float:
    error = np.mean((got.astype(float) - expected.astype(float)) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


@pytest.mark.parametrize(("kind", "least"), [("gif", 30), ("webp", 30), ("mp4", 28)])
def test_every_frame_is_there_once_and_in_order(kind: str, least: float) -> None:
    frames = scene(50)

    clip = encode(frames, fps=50.0, format=kind)

    decoded = decode(clip)
    assert decoded.shape == frames.shape
    error = np.abs(decoded[:, None].astype(int) - frames[None]).mean((2, 3, 4))
    assert list(error.argmin(axis=1)) == list(range(50))
    assert psnr(decoded, frames) > least
    assert (clip.format, clip.width, clip.height, clip.num_frames) == (kind, 64, 48, 50)
    assert (clip.fps, clip.duration) == (50.0, 1.0)


@pytest.mark.usefixtures("any_ffmpeg")
def test_gif_of_few_colors_is_exact() -> None:
    frames = flat(60)

    np.testing.assert_array_equal(decode(encode(frames, fps=50.0, format="gif")), frames)


@pytest.mark.usefixtures("any_ffmpeg")
def test_gif_of_many_colors_without_ffmpeg_too_is_close() -> None:
    frames = scene(12)

    assert psnr(decode(encode(frames, fps=50.0, format="gif")), frames) > 25


@pytest.mark.usefixtures("any_ffmpeg")
def test_frames_that_are_alike_stay_frames_of_a_gif() -> None:
    frames = np.full((7, 4, 5, 3), 9, dtype=np.uint8)

    clip = encode(frames, fps=50.0, format="gif")

    np.testing.assert_array_equal(decode(clip), frames)
    assert durations(clip) == [20] * 7


@pytest.mark.usefixtures("any_ffmpeg")
@pytest.mark.parametrize(
    ("fps", "count", "total"),
    [(50.0, 4, 80), (30.0, 7, 230), (30.0, 30, 1000), (48.0, 48, 1000), (0.001, 2, 1_310_700)],
)
def test_durations_of_a_gif_add_up(fps: float, count: int, total: int) -> None:
    clip = encode(flat(count), fps=fps, format="gif")

    shown = durations(clip)
    assert len(shown) == count
    assert sum(shown) == total == round(1000 * clip.duration)
    assert max(shown) - min(shown) <= 10


def test_thirty_frames_a_second_are_shown_by_turns_for_three_and_four_hundredths() -> None:
    assert durations(encode(flat(7), fps=30.0, format="gif")) == [30, 40, 30, 30, 40, 30, 30]


@pytest.mark.usefixtures("any_ffmpeg")
def test_gif_of_a_hundred_frames_a_second_shows_every_other_one() -> None:
    frames = flat(20)

    clip = encode(frames, fps=100.0, format="gif")

    np.testing.assert_array_equal(decode(clip), frames[::2])
    assert durations(clip) == [20] * 10
    assert clip.num_frames == 10


def test_webp_counts_milliseconds_and_leaves_out_frames_above_ninety_a_second() -> None:
    assert durations(encode(flat(4), fps=60.0, format="webp")) == [17, 16, 17, 17]
    fast = encode(flat(20), fps=240.0, format="webp")
    assert durations(fast) == [11] * 8  # 88 ms for 83: the last one may not be shorter


@pytest.mark.parametrize("fps", [1.0, 29.97, 50.0, 240.0])
def test_mp4_plays_at_any_rate(fps: float) -> None:
    clip = encode(flat(20), fps=fps, format="mp4")

    command = [FFMPEG, "-hide_banner", "-i", "-", "-f", "null", "-"]
    said = subprocess.run(command, input=clip.data, capture_output=True, check=True).stderr.decode()
    assert len(decode(clip)) == 20
    assert f"{fps:g} fps" in said
    assert "yuv420p" in said
    assert clip.data.index(b"moov") < clip.data.index(b"mdat")  # plays while it loads


@pytest.mark.usefixtures("any_ffmpeg")
@pytest.mark.parametrize("kind", ["gif", "webp", "mp4"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 2), (33, 51)])
@pytest.mark.parametrize("count", [1, 3])
def test_odd_and_tiny_sizes(kind: str, height: int, width: int, count: int) -> None:
    if kind == "mp4" and clips.find_ffmpeg() is None:
        return
    frames = np.full((count, height, width, 3), (200, 100, 50), np.uint8)

    clip = encode(frames, fps=25.0, format=kind)

    decoded = decode(clip)
    if kind == "webp":
        decoded = np.broadcast_to(decoded[:1], frames.shape)  # frames that are alike are one
    else:
        assert len(decoded) == count
    assert psnr(decoded[:, :height, :width], frames) > 30
    assert (clip.width, clip.height) == (width, height)


def test_last_row_and_column_of_an_odd_size_are_repeated() -> None:
    frames = np.zeros((2, 15, 31, 3), np.uint8)
    frames[:, -1:] = 255
    frames[:, :, -1:] = 255

    decoded = decode(encode(frames, fps=25.0, format="mp4"))

    assert decoded.shape == (2, 16, 32, 3)
    assert decoded[:, 15].min() > 180
    assert decoded[:, :, 31].min() > 180


def test_a_frame_may_be_overwritten_by_the_next_and_lie_anywhere_in_memory() -> None:
    frames = flat(9)
    canvas = np.empty((40, 30, 3), np.uint8)

    def draw() -> Iterator[np.ndarray]:
        for frame in frames:
            canvas[...] = frame.transpose(1, 0, 2)
            yield canvas.transpose(1, 0, 2)

    np.testing.assert_array_equal(decode(encode(draw(), fps=50.0, format="gif")), frames)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.5, 1000), st.integers(1, 300), st.sampled_from(["gif", "webp"]))
def test_law_of_durations(fps: float, count: int, kind: str) -> None:
    timing = ClipEncoder(fps=fps, format=kind)._timing

    shown = timing.durations(count)

    assert len(shown) == sum(map(timing.shows, range(count)))
    assert timing.shows(0)
    assert min(shown) >= timing.shortest
    expected = timing.ticks * count / fps
    assert abs(sum(shown) - expected) <= max(1.0, timing.shortest)
    if fps * timing.shortest <= timing.ticks:
        assert len(shown) == count


# What can't be encoded ------------------------------------------------------------------------

GOOD = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.astype(np.float32), r"uint8; frame 1 is float32"),
        (GOOD.tolist(), r"uint8; frame 1 is `list`"),
        (GOOD[..., 0], r"\[height, width, 3\], not empty; frame 1 is \[4, 6\]"),
        (np.zeros((4, 6, 4), np.uint8), r"frame 1 is \[4, 6, 4\]"),
        (np.zeros((0, 6, 3), np.uint8), r"frame 1 is \[0, 6, 3\]"),
        (np.zeros((6, 4, 3), np.uint8), r"size of the first, \[4, 6, 3\]; frame 1 is \[6, 4, 3\]"),
    ],
)
@pytest.mark.usefixtures("any_ffmpeg", "scratch")
def test_bad_frames_are_named(bad: np.ndarray, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        encode([GOOD, bad], fps=50.0, format="gif")


@pytest.mark.parametrize("kind", ["gif", "webp", "mp4"])
def test_a_clip_without_frames(kind: str) -> None:
    with pytest.raises(VideoError, match="at least one frame"):
        encode([], fps=50.0, format=kind)


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_rates_that_cannot_be_played(fps: float) -> None:
    with pytest.raises(VideoError, match="`fps` of a clip must be positive"):
        encode([GOOD], fps=fps, format="gif")


def test_unknown_format_and_sizes_that_no_file_can_have() -> None:
    with pytest.raises(VideoError, match=r"one of .*'gif'.*got 'avi'"):
        encode([GOOD], fps=50.0, format="avi")
    with pytest.raises(VideoError, match=r"at most 65535 pixels a side; frame 0 is 65536 x 1"):
        encode([np.zeros((1, 65536, 3), np.uint8)], fps=50.0, format="gif")
    with pytest.raises(VideoError, match="at most 16383 pixels a side"):
        encode([np.zeros((16384, 1, 3), np.uint8)], fps=50.0, format="webp")


def test_an_mp4_without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "find_ffmpeg", lambda: None)
    with pytest.raises(VideoError, match="pip install imageio-ffmpeg"):
        encode([GOOD], fps=50.0, format="mp4")


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Unknown encoder' >&2; exit 3", r"\(exit status 3\): Unknown encoder"),
        ("head -c 100 >/dev/null; kill -9 $$", r"\(Killed\): it said nothing"),
        ("cat >/dev/null; yes complaint >&2; exit 0", None),
    ],
)
@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_an_ffmpeg_that_fails(
    script: str,
    message: str | None,
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    scratch: Path,
) -> None:
    program = executable(tmp_path_factory.mktemp("bin") / "ffmpeg", script)
    monkeypatch.setattr(clips, "find_ffmpeg", lambda: program)
    with pytest.raises(VideoError, match=message):
        encode(flat(200), fps=50.0, format=kind)


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_an_ffmpeg_that_is_killed_half_way(kind: str, scratch: Path) -> None:
    frames = flat(400)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text().split()  # of other tests, such as a server that they share

    def draw() -> Iterator[np.ndarray]:
        yield from frames[:200]
        [child] = {*children.read_text().split()} - {*before}
        os.kill(int(child), signal.SIGKILL)
        yield from frames[200:]

    with pytest.raises(VideoError, match=r"ffmpeg ended after \d+ frames \(Killed\)"):
        encode(draw(), fps=50.0, format=kind)


def test_an_ffmpeg_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    monkeypatch.setattr(clips, "find_ffmpeg", lambda: "/nowhere/ffmpeg")
    with pytest.raises(VideoError, match="can't be started"):
        encode(flat(3), fps=50.0, format="gif")


@pytest.mark.parametrize("kind", ["gif", "webp", "mp4"])
@pytest.mark.parametrize("ffmpeg", [True, False])
@pytest.mark.long
def test_a_full_disk(kind: str, ffmpeg: bool, tmp_path: Path) -> None:
    if kind == "mp4" and not ffmpeg:
        return
    program = f"""
        import resource, tempfile
        import numpy as np
        from metriplex.video.encode import clip
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        tempfile.tempdir = {str(tmp_path)!r}
        if not {ffmpeg}:
            clip.find_ffmpeg = lambda: None
        frames = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
        try:
            clip.encode(frames, fps=50.0, format={kind!r})
        except clip.VideoError as error:
            print(error)
    """
    done = interpreter.run(program)
    assert done.returncode == 0
    assert "File too large" in done.stdout or "File size limit" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert done.stderr == ""


# What it costs --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gif", "webp", "mp4"])
@pytest.mark.parametrize("ffmpeg", [True, False])
def test_memory_does_not_grow_with_the_clip(kind: str, ffmpeg: bool) -> None:
    if kind == "mp4" and not ffmpeg:
        return
    program = f"""
        import resource
        import numpy as np
        from metriplex.video.encode import clip
        if not {ffmpeg}:
            clip.find_ffmpeg = lambda: None
        frame = np.zeros((200, 320, 3), np.uint8)
        def draw(count):
            for index in range(count):
                frame[:, index % 320] = index % 250
                yield frame
        def peak(who):
            return resource.getrusage(who).ru_maxrss // 1024
        everyone = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
        clip.encode(draw(80), fps=50.0, format={kind!r})
        before = sum(map(peak, everyone))
        clip.encode(draw(600), fps=50.0, format={kind!r})  # 115 MB
        print(sum(map(peak, everyone)) - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40


def test_no_descriptor_and_no_thread_is_left() -> None:
    def once(fail: bool) -> None:
        frames: list[np.ndarray] = [*flat(3)] + [GOOD] * fail
        for kind in ("gif", "webp", "mp4"):
            try:
                encode(frames, fps=50.0, format=kind)
            except VideoError:
                assert fail

    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    once(fail=False)
    before = open_descriptors(), threading.active_count()
    for fail in (False, True) * 3:
        once(fail)
    assert (open_descriptors(), threading.active_count()) == before
