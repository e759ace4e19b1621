"""Exact coverage of pixels by shapes, for smooth edges.

Every edge of a polygon is cut at the boundaries of pixels. A piece that rises by `dy` within a
pixel adds `dy` to all pixels to its right in the row. To its own pixel it adds `dy` times the share
of the pixel to the right of the piece. By Green's theorem the sum along a row is the covered signed
area.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex_pygame.arguments import Pixels


@final
class Mask(NamedTuple):
    """The pixels that a shape touches.

    Attributes:
        alpha: uint8 `[height, width]`: 0 outside, 255 inside.
        left: Column of the picture of the first column.
        top: Row of the picture of the first row.
    """

    alpha: np.ndarray[Any, np.dtype[np.uint8]]
    left: int
    top: int


def cover(outlines: Sequence[Pixels], width: int, height: int) -> Mask | None:
    """Compute the coverage of a picture by the inside of closed outlines.

    Outlines of the same orientation form a union: a point is inside if its winding number isn't 0.

    Args:
        outlines: Outlines, each float64 `[number, 2]`, in pixels, finite, of any size.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.

    Returns:
        The mask, cut to the picture; None if nothing is covered.
    """
    if not outlines:
        return None
    edges = np.concatenate([np.stack([line, np.roll(line, -1, 0)], 1) for line in outlines])
    size = np.array([width, height])
    first = np.clip(np.floor(edges.min((0, 1))), 0, size).astype(int)
    columns, rows = (np.clip(np.ceil(edges.max((0, 1))), 0, size).astype(int) - first).tolist()
    if columns <= 0 or rows <= 0:
        return None

    pieces = _cut(edges - first, axis=1, size=rows)
    heights = pieces[:, :, 1].mean(1)
    pieces = _cut(pieces[(heights > 0) & (heights < rows)], axis=0, size=columns)
    rise = pieces[:, 1, 1] - pieces[:, 0, 1]
    x, y = np.clip(pieces.mean(1), 0, (columns, rows)).T
    column, row = np.floor(x).astype(int), np.minimum(np.floor(y).astype(int), rows - 1)

    stride = columns + 2
    where = row * stride + column
    own = rise * (column + 1 - x)
    sums = np.bincount(where, own, minlength=rows * stride)
    sums += np.bincount(where + 1, rise - own, minlength=rows * stride)
    areas = np.cumsum(sums.reshape(rows, stride)[:, :columns], axis=1)
    np.abs(areas, out=areas)
    np.minimum(areas, 1.0, out=areas)
    areas = areas * 255.0
    areas += 0.5
    return Mask(areas.astype(np.uint8), *first.tolist())


def cover_box(center: Pixels, size: Pixels, width: int, height: int) -> Mask | None:
    """Compute the coverage of a picture by a box with sides parallel to the axes.

    Args:
        center: float64 `[2]`, in pixels.
        size: float64 `[2]`: width and height of the box in pixels.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.

    Returns:
        The mask, cut to the picture; None if nothing is covered.
    """
    picture = np.array([width, height])
    low, high = np.clip([center - size / 2, center + size / 2], 0, picture)
    if np.any(high <= low):
        return None
    first, last = np.floor(low).astype(int), np.ceil(high).astype(int)
    pixels = [np.arange(*ends) for ends in zip(first, last, strict=True)]
    shares = [
        np.minimum(pixel + 1, high[axis]) - np.maximum(pixel, low[axis])
        for axis, pixel in enumerate(pixels)
    ]
    alpha = np.outer(255.0 * shares[1], shares[0])
    alpha += 0.5
    return Mask(alpha.astype(np.uint8), *first.tolist())


def _cut(edges: Pixels, axis: int, size: int) -> Pixels:
    """Cut segments `[number, 2, 2]` at the whole numbers 0 to `size` of one coordinate."""
    start, stop = edges[:, 0, axis], edges[:, 1, axis]
    backward = stop < start
    low = np.maximum(np.floor(np.minimum(start, stop)) + 1, 0)
    high = np.minimum(np.ceil(np.maximum(start, stop)) - 1, size)
    cuts = np.maximum(high - low + 1, 0).astype(int)

    last = np.cumsum(cuts + 1) - 1
    first = last - cuts
    edge = np.repeat(np.arange(len(edges)), cuts + 1)
    number = np.arange(len(edge)) - first[edge]
    length = np.where(start == stop, 1.0, stop - start)
    with np.errstate(over="ignore"):  # from nearly flat edges, which are not cut
        nearest = (np.where(backward, high, low) - start) / length
    # more than one cut means a length of at least 1
    along = nearest[edge] + number / np.maximum(np.abs(length), 1.0)[edge]
    along[last] = 1.0

    pieces = np.empty((len(edge), 2, 2))
    pieces[:, 1] = edges[edge, 0] + along[:, None] * (edges[:, 1] - edges[:, 0])[edge]
    pieces[1:, 0] = pieces[:-1, 1]
    pieces[first, 0] = edges[:, 0]
    return pieces
