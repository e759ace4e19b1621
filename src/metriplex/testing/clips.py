"""Decode clips and images, for the tests of a contract."""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from metriplex.video.encode.ffmpeg import find_ffmpeg


def read_clip(data: bytes) -> np.ndarray:
    """Return the frames of an encoded clip.

    Args:
        data: Bytes of a GIF, a WebP or an MP4.

    Returns:
        uint8 `[time, height, width, 3]`, RGB.

    Raises:
        AssertionError: `data` has another format, or is damaged.
    """
    if data[:4] == b"GIF8" or data[8:12] == b"WEBP":
        return _read_pictures(data)
    assert data[4:8] == b"ftyp", f"a clip must be a GIF, a WebP or an MP4; it begins {data[:16]!r}"
    return _read_mp4(data)


def read_picture(data: bytes) -> np.ndarray:
    """Return the pixels of an encoded image, such as a PNG.

    Args:
        data: Bytes of the file.

    Returns:
        uint8 `[height, width, 3]`, RGB.
    """
    return _read_pictures(data)[0]


def _read_pictures(data: bytes) -> np.ndarray:
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(data)) as picture:
        frames = ImageSequence.Iterator(picture)
        return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])


def _read_mp4(data: bytes) -> np.ndarray:
    ffmpeg = find_ffmpeg()
    assert ffmpeg is not None, "no ffmpeg to read an MP4 with: `pip install imageio-ffmpeg`"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "clip.mp4"
        path.write_bytes(data)
        pictures = ["-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-"]
        done = subprocess.run(  # noqa: S603 - our own command, a file of ours
            [ffmpeg, "-v", "error", "-nostdin", "-i", str(path), *pictures],
            capture_output=True,
            check=False,
        )
    head = re.match(rb"P6\s(\d+)\s(\d+)\s255\s", done.stdout)
    assert head is not None, f"the clip has no frame: {done.stderr.decode(errors='replace')}"
    width, height = int(head[1]), int(head[2])
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, len(head[0]) + height * width * 3)
    return frames[:, len(head[0]) :].reshape(-1, height, width, 3)
