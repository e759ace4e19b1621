"""Run ffmpeg: frames go in through a pipe, error messages come back.

imageio (2.38, with imageio-ffmpeg 0.8) encodes equal files as fast, but its writer loses failures.
Measured: it raises nothing if the disk is full (limit of 20 kB) or ffmpeg's exit status is 3, a
killed ffmpeg is a broken pipe without a reason, and closing a stopped ffmpeg had not returned after
20 s. A GIF in one pass, which its writer needs, takes 144 MB more for a clip of 115 MB; the two
passes of `FFmpegGif` take 0 MB more.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from typing import TYPE_CHECKING, final

import numpy as np

from metriplex.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction
    from pathlib import Path


@functools.cache
def find_ffmpeg() -> str | None:
    """Return the path of the ffmpeg executable, or None if no ffmpeg is found.

    The executable is imageio-ffmpeg's own, unless `IMAGEIO_FFMPEG_EXE` names another one.
    """
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def raw_input(width: int, height: int, fps: Fraction) -> list[str]:
    """Return the options of an input that reads raw RGB frames from the pipe."""
    size = f"{width}x{height}"
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-framerate", str(fps), "-i", "-"]


@final
class FFmpeg:
    """A process of ffmpeg that encodes frames; `finish` or `kill` must end it."""

    __slots__ = ("_complaints", "_process", "_written")

    def __init__(self, executable: str, options: Sequence[str], output: Path | None) -> None:
        """Start ffmpeg, or raise `VideoError`; None discards its standard output."""
        # Whatever doesn't fit into this pipe is dropped, so that ffmpeg never waits for a reader.
        self._complaints, complaints = os.pipe()
        os.set_blocking(complaints, False)
        command = [executable, "-y", "-hide_banner", "-loglevel", "error", *options]
        try:
            stdout = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                    command, stdin=subprocess.PIPE, stdout=stdout, stderr=complaints, bufsize=0
                )
            finally:
                os.close(stdout)
        except OSError as error:
            os.close(self._complaints)
            raise VideoError(f"ffmpeg can't be started: {error}") from error
        finally:
            os.close(complaints)
        self._written = 0

    def write(self, frame: np.ndarray) -> None:
        """Write a frame, uint8 `[height, width, 3]`; raise `VideoError` if ffmpeg has ended."""
        assert self._process.stdin is not None
        data = np.ascontiguousarray(frame).data.cast("B")
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except OSError as error:  # a broken pipe
            self._end()
            raise self._failure() from error
        self._written += 1

    def finish(self) -> None:
        """Wait until ffmpeg has encoded all frames; raise `VideoError` if ffmpeg failed."""
        if self._end():
            raise self._failure()
        os.close(self._complaints)
        self._complaints = -1

    def kill(self) -> None:
        """Kill the process; do nothing if it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._end()
        if self._complaints >= 0:
            os.close(self._complaints)
            self._complaints = -1

    def _end(self) -> int:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # ffmpeg may have ended
            self._process.stdin.close()
        return self._process.wait()

    def _failure(self) -> VideoError:
        code = self._process.returncode
        how = signal.strsignal(-code) if code < 0 else f"exit status {code}"
        said = os.read(self._complaints, 4096).decode(errors="replace").strip()
        at = f"after {self._written} frames" if self._written else "before the first frame"
        return VideoError(f"ffmpeg ended {at} ({how}): {said or 'it said nothing'}")
