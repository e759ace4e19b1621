"""Text as a mask, in the font that pygame brings along."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from metriplex_pygame.sdl import fonts, load_pygame

if TYPE_CHECKING:
    Alpha = np.ndarray[Any, np.dtype[np.uint8]]


@functools.lru_cache(maxsize=64)
def text_alpha(text: str, size: int) -> Alpha:
    """Draws text, its lines centred above one another.

    Args:
        text: What to draw.
        size: Height of the font in pixels.

    Returns:
        uint8 `[height, width]`: 0 beside the letters, 255 within them; not to be written to.
    """
    pygame = load_pygame()
    with fonts():
        font = pygame.font.Font(None, size)
        lines = [_line(pygame, font, line) for line in text.split("\n")]
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), _both_sides(width - line.shape[1]))) for line in lines]
    return np.concatenate(padded)


def _line(pygame: Any, font: Any, text: str) -> Alpha:
    picture = font.render(text.replace("\0", ""), True, (255, 255, 255))
    width, height = picture.get_size()
    pixels = np.frombuffer(pygame.image.tobytes(picture, "RGBA"), np.uint8)
    return pixels.reshape(height, width, 4)[..., 3]


def _both_sides(missing: int) -> tuple[int, int]:
    return missing // 2, missing - missing // 2
