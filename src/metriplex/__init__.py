"""metriplex: a pluggable multi-backend metrics logger for reinforcement learning in JAX."""

from __future__ import annotations

from metriplex.errors import (
    ClosedError,
    ConfigurationError,
    LoggingError,
    MetriplexError,
    NonFiniteError,
    PluginError,
    TransientError,
)
from metriplex.hookspecs import hookimpl
from metriplex.records import Delivery, RunInfo, Scalar, Scalars, Text, Video, lane_name

__all__ = [
    "ClosedError",
    "ConfigurationError",
    "Delivery",
    "LoggingError",
    "MetriplexError",
    "NonFiniteError",
    "PluginError",
    "RunInfo",
    "Scalar",
    "Scalars",
    "Text",
    "TransientError",
    "Video",
    "hookimpl",
    "lane_name",
]
