"""Read the arguments of drawing calls, which may be numbers of Python, NumPy or jax."""

from __future__ import annotations

from typing import Any, TypeAlias, final

import numpy as np

from metriplex import ConfigurationError, MetriplexError, Viewport

Color: TypeAlias = Any
"""Red, green and blue, each in [0, 1]: three numbers, or an object with `r`, `g` and `b`."""

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
"""Positions in a picture, float64 `[..., 2]`: pixels right of the left, below the top edge."""


@final
class DrawingError(MetriplexError, ValueError):
    """An argument of a drawing call can't be drawn: NaN, a wrong shape, a negative size."""


def read_point(call: str, name: str, value: object) -> Pixels:
    """Read one position.

    Args:
        call: Name of the drawing call, for the error.
        name: Name of the argument, for the error.
        value: Two numbers.

    Returns:
        float64 `[2]`.

    Raises:
        DrawingError: The value isn't two finite numbers.
    """
    point = _numbers(call, name, value, "two numbers, x and y")
    if point.shape != (2,):
        raise _wrong(call, name, "two numbers, x and y", f"shape {point.shape}")
    return point


def read_points(call: str, name: str, value: object) -> Pixels:
    """Read a sequence of positions.

    Args:
        call: Name of the drawing call, for the error.
        name: Name of the argument, for the error.
        value: Any number of positions, also none.

    Returns:
        float64 `[number, 2]`.

    Raises:
        DrawingError: The value isn't a list of pairs of finite numbers.
    """
    wanted = "a list of positions, shape [number, 2]"
    points = _numbers(call, name, value, wanted)
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2:
        raise _wrong(call, name, wanted, f"shape {points.shape}")
    return points


def read_length(call: str, name: str, value: object) -> float:
    """Read a length.

    Args:
        call: Name of the drawing call, for the error.
        name: Name of the argument, for the error.
        value: One number.

    Returns:
        The length, 0 or more.

    Raises:
        DrawingError: The value isn't one finite number, or is negative.
    """
    wanted = "one number, 0 or more"
    length = _numbers(call, name, value, wanted)
    if length.size != 1:
        raise _wrong(call, name, wanted, f"shape {length.shape}")
    if length.item() < 0:
        raise _wrong(call, name, wanted, repr(length.item()))
    return length.item()


def read_color(call: str, name: str, value: Color) -> tuple[int, int, int]:
    """Read a colour.

    Args:
        call: Name of the drawing call, for the error.
        name: Name of the argument, for the error.
        value: Red, green and blue in [0, 1]; other values are clipped.

    Returns:
        Red, green and blue in 0 to 255, rounded to the nearest.

    Raises:
        DrawingError: The value isn't three finite numbers.
    """
    wanted = "red, green and blue, each in [0, 1]"
    if all(hasattr(value, channel) for channel in "rgb"):
        value = (value.r, value.g, value.b)
    channels = _numbers(call, name, value, wanted)
    if channels.shape != (3,):
        raise _wrong(call, name, wanted, f"shape {channels.shape}")
    red, green, blue = np.rint(np.clip(channels, 0.0, 1.0) * 255.0).astype(int).tolist()
    return red, green, blue


def read_viewport(transform: Any) -> Viewport:
    """Read the `transform` of an environment's renderer: a `Viewport`, or an object like it.

    Args:
        transform: Has `width`, `height`, `scale`, `offset` and perhaps `y_up`, as plain numbers or
            as arrays without dimensions.

    Returns:
        The viewport, with plain numbers.

    Raises:
        DrawingError: An attribute is missing, or is not a finite number.
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
    return Viewport(width, height, scale, (x, y), y_up)


def check_size(name: str, value: object) -> int:
    """Check a width or a height in pixels.

    Args:
        name: Name of the argument, for the error.
        value: The argument.

    Returns:
        The size as a plain `int`.

    Raises:
        metriplex.ConfigurationError: The value isn't a whole number from 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigurationError(
            f"`{name}` of a picture must be a whole number of pixels, 1 or more; got {value!r}"
        )
    return int(value)


def _numbers(call: str, name: str, value: object, wanted: str) -> Pixels:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise _wrong(call, name, wanted, repr(value)) from None
    if not np.isfinite(numbers).all():
        raise _wrong(call, name, f"finite: {wanted}", _shortened(numbers))
    return numbers


def _wrong(call: str, name: str, wanted: str, got: str) -> DrawingError:
    return DrawingError(f"`{name}` of `{call}` must be {wanted}; got {got}")


def _shortened(numbers: Pixels) -> str:
    return " ".join(np.array2string(numbers, threshold=8).split())
