"""Define the exceptions that metriplex raises; all of them derive from `MetriplexError`."""

from __future__ import annotations

from metriplex.messages import printable


class MetriplexError(Exception):
    """Base class of every exception that metriplex raises on purpose."""

    def __str__(self) -> str:
        """Return the message in one line, without control characters."""
        return printable(super().__str__())


class ConfigurationError(MetriplexError, ValueError):
    """An argument of a constructor or an option of a backend is invalid."""


class PluginError(MetriplexError, ImportError):
    """A requested plugin is not installed, or is installed and broken."""


class LoggingError(MetriplexError, ValueError):
    """A value can't be logged, because its tag, shape or dtype is wrong.

    Raised at trace time, before a compiled program exists.
    """


class NonFiniteError(MetriplexError, FloatingPointError):
    """A NaN or an infinity was logged under `nonfinite="raise"` or `"abort"`.

    Raised on the user's thread by the next `flush`, `close` or `with` exit. No backend gets the
    value.
    """


class ClosedError(MetriplexError, RuntimeError):
    """A run was used after it was closed."""


class TransientError(MetriplexError, OSError):
    """Raised by a backend for a temporary failure: its worker waits and retries."""


class VideoError(MetriplexError, RuntimeError):
    """A clip could not be drawn or encoded."""
