"""Animated WebP by Pillow, which is handed a clip that reads its frames from a file as it goes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

_QUALITY = 80
_KEY_FRAMES = 999
"""Frames between two that don't build on the ones before: nobody seeks in so short a clip."""


def write_webp(read: Callable[[int], np.ndarray], durations: Sequence[int]) -> bytes:
    """Makes an animated WebP that repeats for ever; a frame that is alike the last prolongs it.

    Args:
        read: Gives frame `index`, uint8 `[height, width, 3]`.
        durations: How long each frame is shown, in milliseconds.

    Returns:
        The file.
    """
    from PIL import Image

    @final
    class Film(Image.Image):
        """The clip as an image of several frames, of which Pillow seeks one after another."""

        n_frames = len(durations)

        def __init__(self) -> None:
            super().__init__()
            self._mode = "RGB"
            self.seek(0)

        def seek(self, frame: int) -> None:
            image = Image.fromarray(read(frame))
            self._size = image.size
            self.im = image.im

    file = io.BytesIO()
    Film().save(
        file,
        format="WEBP",
        save_all=True,
        duration=list(durations),
        loop=0,
        quality=_QUALITY,
        method=1,
        allow_mixed=True,  # frames of few colors are smaller without loss
        kmin=_KEY_FRAMES,
        kmax=_KEY_FRAMES + 1,
    )
    return file.getvalue()
