"""The 2D renderer with which environments draw into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex import Viewport
from metriplex_pygame.arguments import (
    Color,
    DrawingError,
    Pixels,
    check_size,
    read_color,
    read_length,
    read_point,
    read_points,
    read_viewport,
)
from metriplex_pygame.coverage import Mask, cover, cover_box
from metriplex_pygame.outlines import ellipse, polygon, stroke
from metriplex_pygame.sdl import load_pygame
from metriplex_pygame.shapes import RGB, ShapeCache
from metriplex_pygame.text import text_alpha

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

WHITE = (1.0, 1.0, 1.0)
_HAIRLINE = 2.0
_FURTHEST = 1e12


@final
class HeadlessPygameRenderer:
    """Draw into an off-screen `pygame.Surface`, without display, window or initialised pygame.

    Positions (x and y) and lengths are in world units and need not be whole pixels: the colour of a
    pixel is mixed by the share that a shape covers. Numbers may be those of Python, NumPy or jax.
    Colours are red, green and blue in [0, 1], rounded to 256 levels. Parts outside the picture are
    clipped. All drawing calls raise `DrawingError` for an argument that isn't finite or has a wrong
    shape, and for a negative size. Any thread may use the renderer, one call after another.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        background_color: Colour of an empty picture.
        transform: A `metriplex.Viewport`, or any object with `width`, `height`, `scale`, `offset`
            and `y_up`. None: a unit is a pixel, and the origin is the lower left corner.
        pixel_ratio: Size of the pixels in which text and hairlines are measured, in pixels of this
            picture.

    Raises:
        metriplex.ConfigurationError: A size isn't a whole number from 1.
        DrawingError: The colour or the transform can't be read.
    """

    def __init__(
        self,
        width: int,
        height: int,
        background_color: Color = WHITE,
        transform: Any = None,
        *,
        pixel_ratio: float = 1.0,
    ) -> None:
        self.width = check_size("width", width)
        self.height = check_size("height", height)
        self.background_color = background_color
        default = Viewport(self.width, self.height)
        self.transform = default if transform is None else read_viewport(transform)
        self.pixel_ratio = pixel_ratio
        self._background = read_color(
            "HeadlessPygameRenderer", "background_color", background_color
        )
        self._surface: Any = None
        self._shapes = ShapeCache()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_surface": None, "_shapes": ShapeCache()}

    def open(self) -> None:
        """Create the empty surface; the first call that needs the surface calls this method."""
        if self._surface is None:
            self._surface = load_pygame().Surface((self.width, self.height), 0, 32)
            self._surface.fill(self._background)

    def close(self) -> None:
        """Release the surface; may be called twice, and before `open`."""
        self._surface, self._shapes = None, ShapeCache()

    def clear(self) -> None:
        """Start an empty picture."""
        self.open()
        self._shapes.turn()
        self._surface.fill(self._background)

    def draw(self) -> None:
        """Finish the picture; does nothing."""

    def as_array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Copy the picture: uint8 `[height, width, 3]`, RGB; a new array, read-only."""
        self.open()
        pixels = load_pygame().image.tobytes(self._surface, "RGB")
        return np.frombuffer(pixels, np.uint8).reshape(self.height, self.width, 3)

    def draw_circle(self, center: Any, radius: Any, color: Color) -> None:
        """Draw a filled disc; the radius 0 draws nothing."""
        diameter = 2 * self._length("draw_circle", "radius", radius)
        middle = self._point("draw_circle", "center", center)
        self._fill("draw_circle", color, ellipse, middle, diameter, diameter)

    def draw_ellipse(self, center: Any, w: Any, h: Any, color: Color) -> None:
        """Draw a filled ellipse, `w` wide and `h` high, with axes parallel to the world's axes."""
        width = self._length("draw_ellipse", "w", w)
        height = self._length("draw_ellipse", "h", h)
        middle = self._point("draw_ellipse", "center", center)
        self._fill("draw_ellipse", color, ellipse, middle, width, height)

    def draw_rect(self, center: Any, w: Any, h: Any, color: Color) -> None:
        """Draw a filled rectangle, `w` wide and `h` high, with sides parallel to the axes."""
        width, height = self._length("draw_rect", "w", w), self._length("draw_rect", "h", h)
        middle = self._point("draw_rect", "center", center)
        size = np.array([width, height])

        def mask() -> Mask | None:
            return cover_box(middle, size, self.width, self.height)

        shape = (cover_box, middle.tobytes(), size.tobytes())
        self._paint(shape, read_color("draw_rect", "color", color), mask)

    def draw_polygon(self, points: Any, color: Color) -> None:
        """Draw a filled polygon; it may be concave.

        `points` are the corners in order, `[number, 2]`; fewer than three enclose nothing.
        """
        corners = self._points("draw_polygon", points)
        self._fill("draw_polygon", color, polygon, corners)

    def draw_line(self, start: Any, end: Any, color: Color, width: Any = 1.0) -> None:
        """Draw a segment with round ends, which extend half the width beyond `start` and `end`.

        `width` is the thickness in world units; at least one pixel is drawn.
        """
        thickness = max(self._length("draw_line", "width", width), 1.0)
        ends = [self._point("draw_line", "start", start), self._point("draw_line", "end", end)]
        self._fill("draw_line", color, stroke, np.stack(ends), thickness)

    def draw_polyline(self, points: Any, color: Color) -> None:
        """Draw a thin line, two pixels times `pixel_ratio` thick, from point to point.

        `points` are `[number, 2]`; a single point is drawn as a dot.
        """
        line = self._points("draw_polyline", points)
        thickness = max(_HAIRLINE * self.pixel_ratio, 1.0)
        self._fill("draw_polyline", color, stroke, line, thickness)

    def draw_text(self, center: Any, text: str, color: Color, size: Any = 12.0) -> None:
        """Draw text centred at `center`, with its line breaks.

        `size` is the height of the font in pixels, times `pixel_ratio`.
        """
        height = round(read_length("draw_text", "size", size) * self.pixel_ratio)
        x, y = self._point("draw_text", "center", center).tolist()
        rgb = read_color("draw_text", "color", color)
        text = str(text)

        def mask() -> Mask:
            alpha = text_alpha(text, height)
            rows, columns = alpha.shape
            return Mask(alpha, round(x - columns / 2), round(y - rows / 2))

        if height and text:
            self._paint((text_alpha, text, height, x, y), rgb, mask)

    def _point(self, call: str, name: str, value: Any) -> Pixels:
        return self._within_reach(call, self.transform.to_pixels(read_point(call, name, value)))

    def _points(self, call: str, value: Any) -> Pixels:
        return self._within_reach(
            call, self.transform.to_pixels(read_points(call, "points", value))
        )

    def _length(self, call: str, name: str, value: Any) -> float:
        length = read_length(call, name, value) * self.transform.scale
        self._within_reach(call, np.array(length))
        return length

    @staticmethod
    def _within_reach(call: str, pixels: Pixels) -> Pixels:
        if not np.all(np.abs(pixels) < _FURTHEST):
            raise DrawingError(
                f"`{call}` was given a position or a length of more than {_FURTHEST:g} pixels: has "
                f"the simulation diverged?"
            )
        return pixels

    def _fill(
        self, call: str, color: Color, outline: Callable[..., Sequence[Pixels]], *measures: Any
    ) -> None:
        """Paint the inside of outlines; outlines of cached shapes are not computed."""

        def mask() -> Mask | None:
            return cover(outline(*measures), self.width, self.height)

        shape = (outline, *(np.asarray(measure).tobytes() for measure in measures))
        self._paint(shape, read_color(call, "color", color), mask)

    def _paint(self, shape: Hashable, rgb: RGB, mask: Callable[[], Mask | None]) -> None:
        """Mix a colour into the picture; `mask` is called if the shape is not cached."""
        self.open()
        stencil = self._shapes.stencil(shape, rgb, mask)
        if stencil is not None:
            self._surface.blit(*stencil)
