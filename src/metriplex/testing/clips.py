"""Looking into encoded clips and pictures, for the tests of a contract."""

from __future__ import annotations

import io
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
        reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
        width, height = next(reader)["size"]
        frames = [np.frombuffer(frame, np.uint8) for frame in reader]
    assert frames, "the clip has no frame"
    return np.stack(frames).reshape(-1, height, width, 3)
