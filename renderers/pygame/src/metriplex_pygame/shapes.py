"""A cache of drawn shapes: most shapes of a picture equal shapes of the picture before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

from metriplex_pygame.sdl import load_pygame

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from metriplex_pygame.coverage import Mask

RGB: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_MOST_BYTES = 32 << 20
_OVERHEAD = 1024


@final
class Stencil(NamedTuple):
    """A shape in its colour."""

    surface: Any  # a `pygame.Surface` with the alpha of the shape
    position: tuple[int, int]  # left and top in the picture, in pixels


@final
class ShapeCache:
    """Cache the shapes of the current picture and of the previous picture, up to 64 MiB."""

    def __init__(self) -> None:
        self._last: dict[Hashable, Stencil | None] = {}
        self._current: dict[Hashable, Stencil | None] = {}
        self._bytes = 0

    def turn(self) -> None:
        """Start a new picture."""
        if self._current:
            self._last, self._current, self._bytes = self._current, {}, 0

    def stencil(self, shape: Hashable, rgb: RGB, mask: Callable[[], Mask | None]) -> Stencil | None:
        """Return a shape from the cache, or make it; None if the shape is not visible.

        `shape` is the key of the shape, unique in the picture; `mask` is called if it is not
        cached.
        """
        key = (shape, rgb)
        if key in self._current:
            return self._current[key]
        made = self._last[key] if key in self._last else _cut_out(mask(), rgb)
        self._bytes += _OVERHEAD + (
            4 * made.surface.get_width() * made.surface.get_height() if made else 0
        )
        if self._bytes > _MOST_BYTES:
            self.turn()
        self._current[key] = made
        return made


def _cut_out(mask: Mask | None, rgb: RGB) -> Stencil | None:
    if mask is None or not mask.alpha.size:
        return None
    red, green, blue = rgb
    bgra = mask.alpha.astype("<u4")
    bgra <<= 24
    bgra |= red << 16 | green << 8 | blue
    surface = load_pygame().image.frombuffer(bgra, mask.alpha.shape[::-1], "BGRA")
    return Stencil(surface, (mask.left, mask.top))
