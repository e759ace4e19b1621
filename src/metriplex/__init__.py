"""metriplex: a pluggable multi-backend metrics logger for reinforcement learning in JAX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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
from metriplex.plugins.open_runs import OpenRuns
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
from metriplex.run.hparams import flatten_hparams

if TYPE_CHECKING:
    from metriplex.bridge.host_function import callback_with_numpy_wrapper
    from metriplex.callback.callback import MetricsCallback
    from metriplex.callback.compat import JITSummaryWriter, TensorBoardCallback
    from metriplex.device.episodes import EpisodeStats, init_stats, reset_window, update_stats
    from metriplex.device.learning_rate import learning_rates
    from metriplex.device.state import MetricsState
    from metriplex.device.summary import average_stats, window_stats
    from metriplex.replay.journal import replay_run
    from metriplex.run.provenance import mask_arguments
    from metriplex.video.encode.clip import encode_video

__all__ = [
    "Artifact",
    "Clip",
    "ClosedError",
    "ConfigurationError",
    "Delivery",
    "Diagnosis",
    "Environment",
    "EpisodeStats",
    "Histogram",
    "Image",
    "JITSummaryWriter",
    "Lane",
    "LoggingError",
    "MetricsCallback",
    "MetricsState",
    "MetriplexError",
    "NonFiniteError",
    "OpenRuns",
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
    "average_stats",
    "callback_with_numpy_wrapper",
    "encode_video",
    "flatten_hparams",
    "hookimpl",
    "init_stats",
    "lane_name",
    "learning_rates",
    "mask_arguments",
    "read",
    "replay_run",
    "reset_window",
    "update_stats",
    "window_stats",
]

_LOADED_AT_FIRST_USE = {
    "EpisodeStats": "metriplex.device.episodes",
    "JITSummaryWriter": "metriplex.callback.compat",
    "MetricsCallback": "metriplex.callback.callback",
    "MetricsState": "metriplex.device.state",
    "TensorBoardCallback": "metriplex.callback.compat",
    "average_stats": "metriplex.device.summary",
    "callback_with_numpy_wrapper": "metriplex.bridge.host_function",
    "encode_video": "metriplex.video.encode.clip",
    "init_stats": "metriplex.device.episodes",
    "learning_rates": "metriplex.device.learning_rate",
    "mask_arguments": "metriplex.run.provenance",
    "replay_run": "metriplex.replay.journal",
    "reset_window": "metriplex.device.episodes",
    "update_stats": "metriplex.device.episodes",
    "window_stats": "metriplex.device.summary",
}
"""Names that need jax, or much else: a process that only draws, reads or sends starts without."""

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name not in _LOADED_AT_FIRST_USE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_LOADED_AT_FIRST_USE[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
