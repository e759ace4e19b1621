"""The names of the callback pattern: `TensorBoardCallback` and `JITSummaryWriter`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

from metriplex.bridge.tracing import require_host
from metriplex.callback.callback import MetricsCallback
from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax


def TensorBoardCallback(  # noqa: N802 - the pattern's name
    name: str | None = None,
    env: object = None,
    policy: object = None,
    alpha: float = 0.9,
    log_dir: str | os.PathLike[str] = "logs",
    video_interval: int = 0,
    video_num_steps: int = 256,
    video_width: int = 640,
    video_height: int = 480,
    video_fps: float = 50.0,
) -> MetricsCallback:
    """Return a `MetricsCallback` that logs to TensorBoard, from the pattern's arguments.

    Args:
        name: The run's name; None for a name from the policy, the environment and the time.
        env: The environment, for its name and for videos.
        policy: The policy, for its name.
        alpha: Weight of the newest episode in the moving averages, in (0, 1].
        log_dir: The directory of runs, in which the run's directory is made.
        video_interval: Iterations between two evaluation videos, `eval/video`; 0 for no videos.
        video_num_steps: Steps of a video.
        video_width: Width of a video in pixels.
        video_height: Height of a video in pixels.
        video_fps: Frames a second of a video.

    Returns:
        The callback.

    Raises:
        ConfigurationError: An argument is not usable, or `log_dir` can't be written.
        MetriplexError: The object is constructed inside a compiled function.
    """
    require_host("TensorBoardCallback")
    return MetricsCallback(
        name,
        env,
        policy,
        alpha,
        log_dir,
        backends="tensorboard",
        nonfinite="raise",
        video_interval=video_interval,
        video_num_steps=video_num_steps,
        video_width=video_width,
        video_height=video_height,
        video_fps=video_fps,
    )


@final
class JITSummaryWriter:
    """A summary writer whose methods work inside compiled functions.

    Construct it outside of them and close over it. Rows are delivered in the order in which they
    reach the host, which for programs on one device is the program's.

    Args:
        log_dir: The directory to write to, as `tensorboardX.SummaryWriter` takes it; made unique by
            `_2`, `_3`, ... if it exists. None: `logs/training_{time}`.
        backends: As for `MetricsCallback`; None is TensorBoard.

    Attributes:
        metrics: The callback that it logs through; `metrics.directory` is the run's directory.

    Raises:
        ConfigurationError: `log_dir` is not usable.
        PluginError: A backend is not installed, or broken.
        MetriplexError: The object is constructed inside a compiled function.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] | None = None, *, backends: object = None
    ) -> None:
        require_host("JITSummaryWriter")
        if log_dir is None:
            self.metrics = MetricsCallback(backends=backends, nonfinite="raise")
        else:
            path = Path(log_dir) if isinstance(log_dir, str | os.PathLike) else Path()
            if path.name in ("", ".."):
                raise ConfigurationError(
                    f"`log_dir` of `JITSummaryWriter` must name a directory of the run's own; got "
                    f"{log_dir!r}: pass for example 'logs/my_run'"
                )
            self.metrics = MetricsCallback(
                path.name, log_dir=path.parent, backends=backends, nonfinite="raise"
            )

    def add_scalar(
        self, tag: str, scalar_value: Any, global_step: jax.typing.ArrayLike | None = None
    ) -> None:
        """Log one scalar, inside compiled code or outside.

        Args:
            tag: The tag.
            scalar_value: A number, or an array of size one.
            global_step: The step, an integer that is not negative; None is 0.

        Raises:
            LoggingError: At trace time, if the value can't be logged.
            ClosedError: The writer is closed.
        """
        self.metrics.log(0 if global_step is None else global_step, {tag: scalar_value})

    def add_dict(
        self,
        scalars: Mapping[str, Any],
        *,
        prefix: str = "",
        global_step: jax.typing.ArrayLike | None = None,
    ) -> None:
        """Log scalars by name, all of them in one row, inside compiled code or outside.

        Args:
            scalars: Numbers, or arrays of size one, by name; may be nested, joined by `/`.
            prefix: The first part of every tag, joined by `/`; may be empty.
            global_step: The step, an integer that is not negative; None is 0.

        Raises:
            LoggingError: At trace time, if a value can't be logged.
            ClosedError: The writer is closed.
        """
        step = 0 if global_step is None else global_step
        self.metrics.log(step, {prefix: scalars} if prefix else scalars)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every record is durable; see `MetricsCallback.flush`."""
        self.metrics.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Deliver every record and close the run; see `MetricsCallback.close`."""
        self.metrics.close(timeout)

    def __enter__(self) -> Self:
        self.metrics.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.metrics.__exit__(kind, error, traceback)
