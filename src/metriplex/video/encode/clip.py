"""Encode the frames of a clip as GIF, animated WebP or MP4."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self, final

import numpy as np

from metriplex.errors import VideoError
from metriplex.records import Clip, Video
from metriplex.video.encode.encoders import Encoder, FFmpegGif, ImageioGif, Mp4, PillowWebP
from metriplex.video.encode.ffmpeg import find_ffmpeg
from metriplex.video.encode.timing import Timing, rate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

FORMATS = ("gif", "webp", "mp4")

_LARGEST = {"gif": 0xFFFF, "webp": 0x3FFF, "mp4": 0x3FFF}


def encode(frames: Iterable[np.ndarray], *, fps: float, format: str) -> Clip:  # noqa: A002
    """Encode a clip; at most a few frames are in memory at a time.

    Each frame is encoded before the iterator is advanced, so its array may be overwritten. `gif`
    repeats for ever, with one palette of 256 colors (without ffmpeg one per frame) and durations in
    units of 10 ms; `webp` repeats for ever, is lossy, and has units of 1 ms; `mp4` is H.264.

    The clip has every frame once and in order. Browsers slow down clips above 50 (GIF) or 90 (WebP)
    frames a second, so frames of faster clips are left out.

    Raises:
        VideoError: A frame is invalid, there is no frame, or the encoder failed: the encoder is
            missing or was killed, or the disk is full.
    """
    with ClipEncoder(fps=fps, format=format) as encoder:
        for frame in frames:
            encoder.write(frame)
        return encoder.finish()


def encode_video(video: Video, format: str) -> Clip:  # noqa: A002 - the field's name
    """Return a video as a file of one format, for backends; safe in any thread.

    Args:
        video: The record.
        format: `gif`, `webp` or `mp4`. A backend that names the format in its attribute
            `video_format` gets evaluation videos already encoded.

    Raises:
        VideoError: The video is not encoded yet, and encoding it failed.
    """
    clip = video.clips.get(format)
    if clip is not None:
        return clip
    if video.frames is None:
        raise VideoError(
            f"video `{video.tag}` at step {video.step} is there as {', '.join(video.clips)} and "
            f"not as `{format}`: name the format in the backend's attribute `video_format`"
        )
    return encode(video.frames, fps=video.fps, format=format)


@final
class ClipEncoder:
    """Encode frames that are written one by one; a context manager. See `encode`."""

    __slots__ = ("_count", "_directory", "_encoder", "_shape", "_timing", "format", "fps")

    def __init__(self, *, fps: float, format: str) -> None:  # noqa: A002 - the field's name
        """Check the arguments, or raise `VideoError`; the encoder starts with the first frame."""
        if format not in FORMATS:
            raise VideoError(f"`format` of a clip must be one of {FORMATS}; got {format!r}")
        self.format = format
        self.fps = fps
        self._timing = _timing(format, rate(fps))
        self._count = 0
        self._shape: tuple[int, int, int] | None = None
        self._encoder: Encoder | None = None
        self._directory: Path | None = None

    def write(self, frame: np.ndarray) -> None:
        """Encode the next frame, uint8 `[height, width, 3]`, RGB, of the size of the first frame.

        The array may be overwritten afterwards. Raise `VideoError` if the frame is invalid or the
        encoder failed.
        """
        height, width, channels = self._check(frame)
        try:
            if self._encoder is None:
                self._shape = (height, width, channels)
                # Not a `TemporaryDirectory`: the interpreter's exit would remove it under a thread.
                self._directory = Path(tempfile.mkdtemp(prefix="metriplex-"))
                self._encoder = self._start(width, height, self._directory)
            if self._timing.shows(self._count):
                self._encoder.write(frame)
        except OSError as error:
            raise VideoError(f"frame {self._count} can't be encoded: {error}") from error
        self._count += 1

    def finish(self) -> Clip:
        """Return the clip; raise `VideoError` if there was no frame or the encoder failed."""
        if self._encoder is None or self._shape is None:
            raise VideoError("a clip must have at least one frame; got none")
        durations = self._timing.durations(self._count)
        try:
            data = self._encoder.finish(durations)
        except OSError as error:
            raise VideoError(f"the clip can't be encoded: {error}") from error
        height, width, _ = self._shape
        duration = sum(durations) / self._timing.ticks
        return Clip(data, self.format, width, height, len(durations), self.fps, duration)

    def close(self) -> None:
        """Close the encoder and remove its files; may be called twice."""
        if self._encoder is not None:
            self._encoder.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, frame: np.ndarray) -> tuple[int, int, int]:
        dtype = getattr(frame, "dtype", f"`{type(frame).__name__}`")
        if not isinstance(frame, np.ndarray) or dtype != np.uint8:
            raise VideoError(
                f"a frame must be a NumPy array of uint8; frame {self._count} is {dtype}"
            )
        shape = frame.shape
        if len(shape) != 3 or shape[2] != 3 or not frame.size:
            raise VideoError(
                f"a frame must be [height, width, 3], not empty; frame {self._count} is "
                f"{list(shape)}"
            )
        if self._shape not in {None, shape}:
            raise VideoError(
                f"all frames of a clip must have the size of the first, {list(self._shape or ())}; "
                f"frame {self._count} is {list(shape)}"
            )
        largest = _LARGEST[self.format]
        if max(shape) > largest:
            raise VideoError(
                f"a frame for {self.format} has at most {largest} pixels a side; frame "
                f"{self._count} is {shape[1]} x {shape[0]}: make `video_width` and `video_height` "
                f"smaller"
            )
        return shape

    def _start(self, width: int, height: int, directory: Path) -> Encoder:
        ffmpeg = find_ffmpeg() if self.format != "webp" else None
        if self.format == "mp4":
            if ffmpeg is None:
                raise VideoError(
                    "an MP4 needs ffmpeg, and there is none: `pip install imageio-ffmpeg`, or name "
                    "an executable by the environment variable `IMAGEIO_FFMPEG_EXE`"
                )
            return Mp4(width, height, self._timing.fps, directory, ffmpeg)
        if ffmpeg is not None:
            return FFmpegGif(width, height, directory, ffmpeg)
        is_gif = self.format == "gif"
        if importlib.util.find_spec("imageio" if is_gif else "PIL") is None:
            needed = "ffmpeg or imageio" if is_gif else "Pillow"
            raise VideoError(
                f"a {self.format} needs {needed}, and there is none: "
                f"`pip install 'metriplex[video]'`"
            )
        return (ImageioGif if is_gif else PillowWebP)(width, height, directory)


def _timing(format: str, fps: Fraction) -> Timing:  # noqa: A002 - the field's name
    """Return the timing of a format: its ticks, and the shortest duration browsers respect."""
    if format == "gif":
        return Timing(fps, ticks=100, shortest=2, longest=0xFFFF)
    if format == "webp":
        return Timing(fps, ticks=1000, shortest=11, longest=0xFFFFFF)
    return Timing(fps, ticks=1_000_000, shortest=0, longest=1 << 60)
