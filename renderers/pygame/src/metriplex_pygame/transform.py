"""From world units to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from metriplex_pygame.arguments import DrawingError, Pixels


@final
@dataclass(frozen=True, slots=True)
class Transform:
    """Maps world units to pixels: `pixel = point * scale + offset`.

    With `y_up` the vertical result is measured from the bottom edge of the picture, so it becomes
    `height - pixel`. A pixel is the unit square below and to the right of its integer position.

    Attributes:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        scale: Pixels a world unit.
        offset: Where the world's origin lies, in pixels.
        y_up: Whether the world's y axis points up (a picture's points down).
    """

    width: float
    height: float
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    y_up: bool = True

    @classmethod
    def like(cls, transform: Any) -> Transform:
        """Reads any object with these attributes, whose values may be arrays of no dimension.

        Args:
            transform: Has `width`, `height`, `scale`, `offset` and perhaps `y_up`.

        Returns:
            The same with plain numbers.

        Raises:
            DrawingError: An attribute is missing, or isn't a finite number.
        """
        try:
            x, y = (float(number) for number in transform.offset)
            width, height = float(transform.width), float(transform.height)
            scale, y_up = float(transform.scale), bool(getattr(transform, "y_up", True))
        except (AttributeError, TypeError, ValueError) as error:
            raise DrawingError(
                f"a transform must have the numbers `width`, `height`, `scale` and two of them as "
                f"`offset`; got {transform!r}: {error}"
            ) from error
        if not np.isfinite([width, height, scale, x, y]).all() or min(width, height, scale) <= 0:
            raise DrawingError(
                f"`width`, `height` and `scale` of a transform must be above 0, and all its "
                f"numbers finite; got {transform!r}"
            )
        return cls(width, height, scale, (x, y), y_up)

    def fitted(self, width: int, height: int) -> Transform:
        """Shows the same part of the world in a picture of another size, undistorted and centred.

        Where the proportions differ, more of the world is seen on two sides.

        Args:
            width: Width of that picture in pixels.
            height: Height of that picture in pixels.

        Returns:
            The transform into that picture.

        Examples:
            >>> Transform(200, 100, scale=10.0, offset=(100.0, 0.0)).fitted(100, 100)
            Transform(width=100, height=100, scale=5.0, offset=(50.0, 25.0), y_up=True)
        """
        ratio = min(width / self.width, height / self.height)
        offset = (
            ratio * self.offset[0] + (width - ratio * self.width) / 2,
            ratio * self.offset[1] + (height - ratio * self.height) / 2,
        )
        return Transform(width, height, ratio * self.scale, offset, self.y_up)

    def to_pixel(self, points: Pixels) -> Pixels:
        """Maps positions.

        Args:
            points: float64 `[..., 2]`, in world units.

        Returns:
            float64 `[..., 2]`: pixels to the right of the left edge, and below the top edge.

        Examples:
            >>> Transform(640, 480, scale=100.0, offset=(320.0, 80.0)).to_pixel(np.array([1, 0]))
            array([420., 400.])
        """
        pixels = points * self.scale + self.offset
        if self.y_up:
            pixels[..., 1] = self.height - pixels[..., 1]
        return pixels
