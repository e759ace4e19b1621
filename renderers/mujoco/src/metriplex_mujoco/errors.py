"""Why a frame could not be drawn."""

from __future__ import annotations

from metriplex import MetriplexError


class NoGLError(MetriplexError, RuntimeError):
    """No OpenGL that draws without a display was found; the message says what to install."""


class DrawingError(MetriplexError, ValueError):
    """A state can't be drawn: it holds no simulation, one of another model, or values like NaN."""
