"""Convert the pictures of event files to images and videos."""

from __future__ import annotations

import io
from collections.abc import Callable  # noqa: TC003 - part of public annotations
from typing import Any

import numpy as np

from metriplex.records import Clip, Image, Video

_CLIPS = ("gif", "webp")
_EXACT = ("1", "L", "P", "RGB")
"""Pillow's modes whose pixels RGB holds; others have transparency or more bits."""


def read_picture(
    data: bytes, stamp: dict[str, Any], change: Callable[[str], None]
) -> Image | Video:
    """Return an image, or a video if the picture is an animated GIF or WebP.

    Args:
        data: The encoded picture.
        stamp: Arguments of both records: `step`, `tag`, `lane`, `wall_time`.
        change: Called with a sentence about each part of the picture that the record has not.

    Raises:
        ValueError: The picture can't be read, or Pillow is not installed.
    """
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise ValueError(
            "pictures need Pillow, which is not installed; to install it: `pip install "
            "'metriplex[event-files]'`"
        ) from error
    try:
        with Pillow.open(io.BytesIO(data)) as picture:
            kind, frames = str(picture.format).lower(), getattr(picture, "n_frames", 1)
            if frames > 1 and kind in _CLIPS:
                return _clip(picture, data, kind, frames, stamp)
            if frames > 1:
                change(f"only the first of its {frames} frames is kept, as it is {kind.upper()}")
            pixels = np.array(picture.convert("RGB"), np.uint8)
            if not _is_exact(picture):
                change(f"its pixels of mode {picture.mode} become RGB of 8 bits")
            return Image(pixels=pixels, **stamp)
    except Exception as error:
        raise ValueError(f"`{stamp['tag']}` is a picture that can't be read: {error}") from error


def _clip(picture: Any, data: bytes, kind: str, frames: int, stamp: dict[str, Any]) -> Video:
    duration = 0.0
    for index in range(frames):
        picture.seek(index)
        picture.load()  # a WebP has its duration only then
        # Players take a tenth of a second for none.
        duration += picture.info.get("duration", 0) / 1000 or 0.1
    fps = frames / duration
    clip = Clip(data, kind, picture.width, picture.height, frames, fps, duration)
    return Video(frames=None, fps=fps, clips={kind: clip}, **stamp)


def _is_exact(picture: Any) -> bool:
    """Return True if RGB of 8 bits holds a picture; full opacity is nothing to lose."""
    if picture.has_transparency_data:
        return picture.convert("RGBA").getextrema()[3] == (255, 255)
    return picture.mode in _EXACT
