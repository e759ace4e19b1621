"""The exceptions that metriplex raises; every one of them derives from `MetriplexError`."""

from __future__ import annotations


class MetriplexError(Exception):
    """Base of every exception that metriplex raises on purpose."""


class ConfigurationError(MetriplexError, ValueError):
    """An argument of a constructor, or of a backend's options, is not usable."""


class PluginError(MetriplexError, ImportError):
    """A plugin that was asked for is not installed, or is installed and broken."""


class LoggingError(MetriplexError, ValueError):
    """A value that was given to be logged can't be: its tag, shape or dtype is wrong.

    Raised at trace time, before a compiled program exists.
    """


class NonFiniteError(MetriplexError, FloatingPointError):
    """A NaN or an infinity was logged while `nonfinite="error"` (or `"abort"`) was in force.

    Raised on the user's thread by the next `flush`, `close` or `with` exit; the value itself has
    reached no backend.
    """


class ClosedError(MetriplexError, RuntimeError):
    """A run was used after it was closed."""


class TransientError(MetriplexError, OSError):
    """What a backend raises for a failure that may pass: its worker waits and calls again."""


class VideoError(MetriplexError, RuntimeError):
    """A clip could not be drawn or encoded."""
