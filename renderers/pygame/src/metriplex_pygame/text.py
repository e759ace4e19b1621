"""Text as a mask, in the default font of pygame."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from metriplex_pygame.sdl import fonts, load_pygame

if TYPE_CHECKING:
    from collections.abc import Sequence

    Alpha = np.ndarray[Any, np.dtype[np.uint8]]


@functools.lru_cache(maxsize=64)
def text_alpha(text: str, size: int) -> Alpha:
    """Return text with centred lines as uint8 `[height, width]`: 0 outside the letters, 255 inside.

    `size` is the height of the font in pixels. The array must not be modified.
    """
    with fonts():
        lines = _lines(text.replace("\0", "").split("\n"), size)
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), _both_sides(width - line.shape[1]))) for line in lines]
    return np.concatenate(padded)


def _lines(texts: Sequence[str], size: int) -> list[Alpha]:
    pygame = load_pygame()
    # A local font, because a font that outlives `pygame.font.quit` never closes its file.
    font = pygame.font.Font(None, size)
    return [_alpha(pygame, font.render(text, True, (255, 255, 255))) for text in texts]


def _alpha(pygame: Any, picture: Any) -> Alpha:
    width, height = picture.get_size()
    pixels = np.frombuffer(pygame.image.tobytes(picture, "RGBA"), np.uint8)
    return pixels.reshape(height, width, 4)[..., 3]


def _both_sides(missing: int) -> tuple[int, int]:
    return missing // 2, missing - missing // 2
