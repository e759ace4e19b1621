"""One encoder per file format; an encoder keeps at most one frame in memory."""

from __future__ import annotations

import abc
import math
from fractions import Fraction
from typing import TYPE_CHECKING, final

import numpy as np

from metriplex.video.encode.ffmpeg import FFmpeg, raw_input
from metriplex.video.encode.gif import animation_frame, set_durations, start_animation
from metriplex.video.encode.webp import write_webp

if TYPE_CHECKING:
    import io
    from pathlib import Path

_ANY_RATE = Fraction(25)
"""Rate of files whose durations are set afterwards."""


class Encoder(abc.ABC):
    """Encode frames of one size to one file; `close` must be the last call, also after errors."""

    @abc.abstractmethod
    def write(self, frame: np.ndarray) -> None:
        """Encode the next frame, uint8 `[height, width, 3]`; the caller may overwrite the array."""

    @abc.abstractmethod
    def finish(self, durations: list[int]) -> bytes:
        """Return the bytes of the file; `durations` has the ticks of each written frame."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; may be called twice."""


@final
class FFmpegGif(Encoder):
    """GIF by ffmpeg: one palette for the whole clip, no dither.

    The palette is known only after the last frame, so a lossless file holds the frames until then.
    """

    def __init__(self, width: int, height: int, directory: Path, executable: str) -> None:
        self._executable = executable
        self._frames = directory / "gif.mkv"
        self._palette = directory / "gif.png"
        self._output = directory / "clip.gif"
        lossless = ["-c:v", "libx264rgb", "-preset", "ultrafast", "-qp", "0", str(self._frames)]
        options = [
            *raw_input(width, height, _ANY_RATE),
            *("-filter_complex", "[0:v]split[frames][seen];[seen]palettegen[palette]"),
            *("-map", "[frames]", *lossless, "-map", "[palette]", str(self._palette)),
        ]
        self._process = FFmpeg(executable, options, None)

    def write(self, frame: np.ndarray) -> None:
        """See `Encoder.write`."""
        self._process.write(frame)

    def finish(self, durations: list[int]) -> bytes:
        """See `Encoder.finish`."""
        self._process.finish()
        options = [
            *("-i", str(self._frames), "-i", str(self._palette)),
            *("-filter_complex", "[0:v][1:v]paletteuse=dither=none:diff_mode=rectangle"),
            *("-f", "gif", "-"),
        ]
        self._process = FFmpeg(self._executable, options, self._output)
        self._process.finish()
        return set_durations(self._output.read_bytes(), durations)

    def close(self) -> None:
        """See `Encoder.close`."""
        self._process.kill()


@final
class Mp4(Encoder):
    """H.264 in an MP4 that plays while it loads; an odd size repeats the last row or column."""

    def __init__(
        self, width: int, height: int, fps: Fraction, directory: Path, executable: str
    ) -> None:
        self._padding = (height % 2, width % 2)
        self._output = directory / "clip.mp4"
        options = [
            *raw_input(width + width % 2, height + height % 2, fps),
            *("-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"),
            *("-c:v", "libx264", "-preset", "veryfast"),
            *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
            *("-movflags", "+faststart", str(self._output)),
        ]
        self._process = FFmpeg(executable, options, None)

    def write(self, frame: np.ndarray) -> None:
        """See `Encoder.write`."""
        if any(self._padding):
            rows, columns = self._padding
            frame = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
        self._process.write(frame)

    def finish(self, durations: list[int]) -> bytes:  # noqa: ARG002 - all frames alike
        """See `Encoder.finish`."""
        self._process.finish()
        return self._output.read_bytes()

    def close(self) -> None:
        """See `Encoder.close`."""
        self._process.kill()


@final
class ImageioGif(Encoder):
    """GIF without ffmpeg: imageio compresses the changed part of each frame."""

    def __init__(self, width: int, height: int, directory: Path) -> None:
        self._file = (directory / "clip.gif").open("w+b", buffering=0)
        self._file.write(start_animation(width, height))
        self._shown: np.ndarray | None = None

    def write(self, frame: np.ndarray) -> None:
        """See `Encoder.write`."""
        _write_all(self._file, memoryview(animation_frame(frame, self._shown)))
        self._shown = frame.copy()

    def finish(self, durations: list[int]) -> bytes:
        """See `Encoder.finish`."""
        self._file.seek(0)
        return set_durations(self._file.read() + b";", durations)

    def close(self) -> None:
        """See `Encoder.close`."""
        self._file.close()


@final
class PillowWebP(Encoder):
    """Lossy animated WebP. Pillow needs the whole clip, so a file holds the frames."""

    def __init__(self, width: int, height: int, directory: Path) -> None:
        self._shape = (height, width, 3)
        self._file = (directory / "frames").open("w+b", buffering=0)

    def write(self, frame: np.ndarray) -> None:
        """See `Encoder.write`."""
        _write_all(self._file, np.ascontiguousarray(frame).data.cast("B"))

    def finish(self, durations: list[int]) -> bytes:
        """See `Encoder.finish`."""
        return write_webp(self._read, durations)

    def close(self) -> None:
        """See `Encoder.close`."""
        self._file.close()

    def _read(self, index: int) -> np.ndarray:
        """Return frame `index` of those that were written."""
        size = math.prod(self._shape)
        self._file.seek(index * size)
        return np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape)


def _write_all(file: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) or 0 :]
