"""metriplex: a pluggable multi-backend metrics logger for reinforcement learning in JAX."""

from __future__ import annotations

from metriplex.bridge.host_function import callback_with_numpy_wrapper
from metriplex.callback.callback import MetricsCallback
from metriplex.callback.compat import JITSummaryWriter, TensorBoardCallback
from metriplex.device.state import MetricsState
from metriplex.errors import (
    ClosedError,
    ConfigurationError,
    LoggingError,
    MetriplexError,
    NonFiniteError,
    PluginError,
    TransientError,
    VideoError,
)
from metriplex.plugins.hookspecs import hookimpl
from metriplex.plugins.interfaces import Environment, Renderer
from metriplex.plugins.routing import Route
from metriplex.plugins.viewport import Viewport
from metriplex.reading.run_data import RunData, read
from metriplex.records import (
    Artifact,
    Clip,
    Delivery,
    Diagnosis,
    Histogram,
    Image,
    Lane,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    Video,
    lane_name,
)
from metriplex.video.encode.clip import encode_video

__all__ = [
    "Artifact",
    "Clip",
    "ClosedError",
    "ConfigurationError",
    "Delivery",
    "Diagnosis",
    "Environment",
    "Histogram",
    "Image",
    "JITSummaryWriter",
    "Lane",
    "LoggingError",
    "MetricsCallback",
    "MetricsState",
    "MetriplexError",
    "NonFiniteError",
    "PluginError",
    "Renderer",
    "Route",
    "RunData",
    "RunInfo",
    "Scalar",
    "Scalars",
    "TensorBoardCallback",
    "Text",
    "TransientError",
    "Video",
    "VideoError",
    "Viewport",
    "callback_with_numpy_wrapper",
    "encode_video",
    "hookimpl",
    "lane_name",
    "read",
]
