"""Looking into encoded clips and pictures, for the tests of a contract."""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np


def read_clip(data: bytes) -> np.ndarray:
    """Decodes a clip.

    Args:
        data: A GIF, a WebP or an MP4.

    Returns:
        uint8 `[time, height, width, 3]`, RGB.

    Raises:
        AssertionError: It is neither, or broken.
    """
    if data[:4] == b"GIF8" or data[8:12] == b"WEBP":
        return _read_pictures(data)
    assert data[4:8] == b"ftyp", f"a clip must be a GIF, a WebP or an MP4; it begins {data[:16]!r}"
    return _read_mp4(data)


def read_picture(data: bytes) -> np.ndarray:
    """Decodes a picture, such as a PNG.

    Args:
        data: The file.

    Returns:
        uint8 `[height, width, 3]`, RGB.
    """
    return _read_pictures(data)[0]


def _read_pictures(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        frames = []
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def _read_mp4(data: bytes) -> np.ndarray:
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "clip.mp4"
        path.write_bytes(data)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
        command += ["-f", "image2pipe", "-c:v", "ppm", "-"]
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - our own arguments
    assert found.returncode == 0, f"the clip is broken: {found.stderr.decode(errors='replace')}"
    pictures, frames = found.stdout, []
    while pictures:  # each is `P6 {width} {height} 255 ` and its pixels
        head = re.match(rb"P6\s(\d+)\s(\d+)\s255\s", pictures)
        assert head is not None, f"ffmpeg gave no picture; it begins {pictures[:16]!r}"
        width, height = int(head[1]), int(head[2])
        pixels = pictures[head.end() : head.end() + 3 * width * height]
        frames.append(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))
        pictures = pictures[head.end() + len(pixels) :]
    assert frames, "the clip has no frame"
    return np.stack(frames)
