"""metriplex: a pluggable multi-backend metrics logger for reinforcement learning in JAX."""

from __future__ import annotations

from metriplex.callback import MetricsCallback
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
from metriplex.host_function import callback_with_numpy_wrapper
from metriplex.pattern import JITSummaryWriter, TensorBoardCallback
from metriplex.records import Delivery, RunInfo, Scalar, Scalars, Text, Video, lane_name
from metriplex.rendering import Environment, Renderer
from metriplex.state import MetricsState

__all__ = [
    "ClosedError",
    "ConfigurationError",
    "Delivery",
    "Environment",
    "JITSummaryWriter",
    "LoggingError",
    "MetricsCallback",
    "MetricsState",
    "MetriplexError",
    "NonFiniteError",
    "PluginError",
    "Renderer",
    "RunInfo",
    "Scalar",
    "Scalars",
    "TensorBoardCallback",
    "Text",
    "TransientError",
    "Video",
    "callback_with_numpy_wrapper",
    "hookimpl",
    "lane_name",
]
