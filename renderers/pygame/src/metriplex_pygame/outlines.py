"""Outlines of shapes as closed polygons in pixels; the error of curves is below 1/50 pixel."""

from __future__ import annotations

import math

import numpy as np

from metriplex_pygame.arguments import Pixels  # noqa: TC001 - public annotations

_CURVE_ERROR = 0.02
_ROUND_JOIN = math.cos(math.radians(20.0))


def polygon(corners: Pixels) -> list[Pixels]:
    """Return the outline of a polygon, `[number, 2]`; an empty list without corners."""
    return [corners] if len(corners) else []


def ellipse(center: Pixels, width: float, height: float) -> list[Pixels]:
    """Return the outline, `[number, 2]`, of an ellipse with axes parallel to the picture's."""
    radii = np.array([width, height]) / 2
    angles = np.linspace(0.0, 2 * math.pi, _corners(radii.max()), endpoint=False)
    return [center + radii * np.stack([np.cos(angles), np.sin(angles)], -1)]


def stroke(points: Pixels, width: float) -> list[Pixels]:
    """Return the outlines of a line with round ends, and round corners at sharp bends.

    Each outline is `[number, 2]`; all have the same orientation. `points`, `[number, 2]`, are the
    middle of the line; the list is empty without points.
    """
    if len(points) == 0:
        return []
    moved = np.any(np.diff(points, axis=0) != 0, axis=1)
    points = points[np.append(True, moved)]
    if len(points) == 1:
        return ellipse(points[0], width, width)
    steps = np.diff(points, axis=0)
    along = steps / np.hypot(*steps.T)[:, None]
    bends = np.sum(along[1:] * along[:-1], axis=1)
    corners = np.flatnonzero(bends < _ROUND_JOIN) + 1
    starts, stops = np.append(0, corners), np.append(corners, len(points) - 1)
    return [
        _ribbon(points[start : stop + 1], along[start:stop], width / 2)
        for start, stop in zip(starts, stops, strict=True)
    ]


def _ribbon(points: Pixels, along: Pixels, radius: float) -> Pixels:
    """Return the outline of a line with gentle bends: left side, end, right side, end."""
    normals = along @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    before, after = np.vstack([normals[:1], normals]), np.vstack([normals, normals[-1:]])
    middle = before + after
    miters = 2 * middle / np.sum(middle * middle, axis=1, keepdims=True)
    turn = np.linspace(0.0, math.pi, _corners(radius) // 2 + 1)[1:-1, None]
    cosine, sine = np.cos(turn) * radius, np.sin(turn) * radius
    last, first = (points[-1], normals[-1], along[-1]), (points[0], -normals[0], -along[0])
    caps = [end + cosine * normal + sine * forward for end, normal, forward in (last, first)]
    left, right = points + radius * miters, (points - radius * miters)[::-1]
    return np.vstack([left, caps[0], right, caps[1]])


def _corners(radius: float) -> int:
    """Return the corners of a circle; a chord is r (1 - cos(π / n)) away from the arc."""
    return max(24, 2 * math.ceil(math.pi * math.sqrt(max(radius, 0.0) / (8 * _CURVE_ERROR))))
