"""Errors of the MuJoCo renderer."""

from __future__ import annotations

from metriplex import MetriplexError


class NoGLError(MetriplexError, RuntimeError):
    """No OpenGL draws without a display; the message names packages to install."""


class DrawingError(MetriplexError, ValueError):
    """A state can't be drawn: no simulation, a simulation of another model, or values like NaN."""
