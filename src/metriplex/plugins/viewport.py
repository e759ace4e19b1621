"""The view of a two-dimensional world that an environment and its renderer share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Points = np.ndarray[Any, np.dtype[np.float64]]


@final
@dataclass(frozen=True, slots=True)
class Viewport:
    """Map world units to the pixels of an image: `pixel = point * scale + offset`.

    With `y_up` the vertical result counts from the bottom edge of the image, so the row becomes
    `height - pixel`. A pixel is the unit square below and to the right of its integer position.

    An environment returns a viewport from `default_renderer()`. 2D renderers read any object that
    has `transform`, with the numbers below, and `background_color`.

    Attributes:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        scale: Pixels per world unit.
        offset: Position of the world's origin, in pixels from the left edge, and from the bottom
            edge (with `y_up`) or the top edge.
        y_up: True if the world's y axis points up. The y axis of an image points down.
        background_color: Red, green and blue of an empty image, each in [0, 1].

    Examples:
        >>> view = Viewport(640, 480, scale=100.0, offset=(320.0, 80.0))
        >>> view.to_pixels((1, 0))
        array([420., 400.])
        >>> view.to_world((420, 400))
        array([1., 0.])
    """

    width: float
    height: float
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    y_up: bool = True
    background_color: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def transform(self) -> Viewport:
        """The viewport itself, under the name by which renderers read `default_renderer()`."""
        return self

    def to_pixels(self, points: ArrayLike) -> Points:
        """Map positions of the world to the image.

        Args:
            points: `[..., 2]`, x and y in world units.

        Returns:
            float64 `[..., 2]`: pixels right of the left edge, and pixels below the top edge.
        """
        return self._flip(np.asarray(points, np.float64) * self.scale + self.offset)

    def to_world(self, pixels: ArrayLike) -> Points:
        """Map positions of the image to the world; the inverse of `to_pixels`.

        Args:
            pixels: `[..., 2]`, pixels right of the left edge and below the top edge.

        Returns:
            float64 `[..., 2]`: x and y in world units.
        """
        return (self._flip(np.array(pixels, np.float64)) - self.offset) / self.scale

    def fitted(self, width: int, height: int) -> Viewport:
        """Return the viewport that shows this part of the world, centred, in another image size.

        The scale is the same for x and y. If the proportions of the images differ, the larger
        image shows more of the world on two sides.

        Args:
            width: Width of the other image in pixels.
            height: Height of the other image in pixels.

        Examples:
            >>> view = Viewport(200, 100, scale=10.0, offset=(100.0, 0.0)).fitted(100, 100)
            >>> view.scale, view.offset
            (5.0, (50.0, 25.0))
        """
        ratio = min(width / self.width, height / self.height)
        offset = (
            ratio * self.offset[0] + (width - ratio * self.width) / 2,
            ratio * self.offset[1] + (height - ratio * self.height) / 2,
        )
        color = self.background_color
        return Viewport(width, height, ratio * self.scale, offset, self.y_up, color)

    def _flip(self, pixels: Points) -> Points:
        """Exchange "from the bottom edge" and "from the top edge" in place if y points up."""
        if self.y_up:
            pixels[..., 1] = self.height - pixels[..., 1]
        return pixels
