"""Animated WebP by Pillow, which reads the frames of a clip from a file one after another.

Pillow is called directly, because imageio's Pillow plugin holds all frames in memory.

References:
    RFC 9649, WebP Image Format: https://www.rfc-editor.org/rfc/rfc9649
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

_QUALITY = 80
_KEY_FRAMES = 999
"""Frames between two key frames. Key frames serve seeking, and these clips are short."""


def write_webp(read: Callable[[int], np.ndarray], durations: Sequence[int]) -> bytes:
    """Encode an animated WebP that repeats for ever; equal consecutive frames become one frame.

    `read` returns frame `index`, uint8 `[height, width, 3]`; durations are milliseconds.
    """
    from PIL import Image

    @final
    class Film(Image.Image):
        """The clip as an image of several frames, through which Pillow seeks."""

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
