"""Log Stable-Baselines3 and SBX trainings with a callback for `model.learn(callback=...)`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, final

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import (
    Figure,
    FormatUnsupportedError,
    HParam,
    Image,
    KVWriter,
    Video,
    filter_excluded_keys,
)

if TYPE_CHECKING:
    from metriplex.callback.callback import MetricsCallback

_RENAMED = {
    "rollout/ep_rew_mean": "episode/return",
    "rollout/ep_len_mean": "episode/length",
    "eval/mean_reward": "eval/return",
    "eval/mean_ep_length": "eval/length",
}
_UNDEFINED = "train/explained_variance"
"""A metric that is NaN, without an error, as long as all returns are equal."""

_NOT_CHOSEN = {"policy", "env", "tensorboard_log", "verbose", "device", "_init_setup_model"}


@final
class SB3Callback(BaseCallback):
    """Log a training of SBX or Stable-Baselines3: everything that its logger gets.

        with MetricsCallback("ppo", hparams=hparams(model)) as metrics:
            model.learn(100_000, callback=SB3Callback(metrics))

    The other outputs of the library's logger are unchanged. The callback works alone or in a list.

    Args:
        metrics: The run.
    """

    def __init__(self, metrics: MetricsCallback) -> None:
        super().__init__()
        self._writer = MetricsWriter(metrics)

    def _on_training_start(self) -> None:
        self._on_training_end()  # a failed training leaves its writer behind
        self.logger.output_formats.append(self._writer)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        formats = self.logger.output_formats
        formats[:] = [
            output
            for output in formats
            if not isinstance(output, MetricsWriter)
            or (output is not self._writer and not output.closed)
        ]


@final
class MetricsWriter(KVWriter):
    """An output of a Stable-Baselines3 logger that logs to a run.

        model.set_logger(Logger(None, [MetricsWriter(metrics)]))  # instead of `SB3Callback`

    Numbers are logged as scalars at the step of the dump. Tags are the names of the library, with
    these exceptions: `rollout/ep_rew_mean` becomes `episode/return`, `rollout/ep_len_mean` becomes
    `episode/length`, `eval/mean_reward` becomes `eval/return`, `eval/mean_ep_length` becomes
    `eval/length`. Strings are logged as texts, arrays as histograms, and the images of a batch as
    one row. Values with `exclude="tensorboard"` or `exclude="metriplex"` are not logged.

    Args:
        metrics: The run; it stays open when the logger is closed.
    """

    def __init__(self, metrics: MetricsCallback) -> None:
        self._metrics = metrics

    @property
    def closed(self) -> bool:
        """True if the run is closed."""
        return self._metrics.run.closed

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Log the values that were recorded since the last dump.

        Args:
            key_values: Name to value.
            key_excluded: Name to the outputs that exclude the value.
            step: Environment steps taken so far.

        Raises:
            FormatUnsupportedError: A value has a type that no backend can show.
            LoggingError: A value can't be logged.
            ClosedError: The run is closed.
        """
        for output in ("tensorboard", "metriplex"):
            key_values = filter_excluded_keys(key_values, key_excluded, output)
        scalars = {}
        for name, value in key_values.items():
            tag = _RENAMED.get(name, name)
            if name == _UNDEFINED and np.isnan(value):
                continue
            if _is_scalar(value):
                scalars[tag] = _array(value).reshape(())
            elif value is not None:
                self._write_media(tag, value, step)
        if scalars:
            self._metrics.log(step, scalars)

    def close(self) -> None:
        """Do nothing: the code that opened the run closes it."""

    def _write_media(self, tag: str, value: Any, step: int) -> None:
        metrics = self._metrics
        match value:
            case str():
                metrics.log_text(tag, value, step=step)
            case Video():
                frames = _side_by_side(_array(value.frames), "NTCHW", "THNWC")
                metrics.log_video(tag, frames, fps=value.fps, step=step)
            case Image() if not isinstance(value.image, str):
                pixels = _side_by_side(_array(value.image), value.dataformats, "HNWC")
                metrics.log_image(tag, pixels, step=step)
            case Figure():
                metrics.log_image(tag, _draw(value), step=step)
            case HParam():
                metrics.log_hparams(dict(value.hparam_dict))
            case _ if hasattr(value, "dtype"):
                metrics.log_histogram(tag, _array(value), step=step)
            case _:
                raise FormatUnsupportedError(["metriplex"], f"`{tag}` ({type(value).__name__})")


def hparams(model: Any) -> dict[str, Any]:
    """Return the hyper-parameters of an algorithm, for `MetricsCallback(hparams=...)`.

    Args:
        model: The algorithm, of SBX or Stable-Baselines3.

    Returns:
        The names of the algorithm's and the policy's class, and the constructor's arguments.
    """
    names = inspect.signature(type(model)).parameters.keys() - _NOT_CHOSEN
    chosen = {name: getattr(model, name) for name in sorted(names) if hasattr(model, name)}
    return {"algorithm": type(model).__name__, "policy": model.policy_class.__name__, **chosen}


def _array(value: Any) -> np.ndarray:
    """Return a number, or an array of NumPy, jax or torch, as a NumPy array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return True
    return hasattr(value, "dtype") and hasattr(value, "shape") and _array(value).size == 1


def _side_by_side(pixels: np.ndarray, given: str, wanted: str) -> np.ndarray:
    """Reorder axes, and join the pictures of a batch (axis `N`) into one row.

    `pixels` are uint8, or floats in [0, 1], with one, three or four channels; the fourth channel,
    the opacity, is dropped. `given` names the axes of `pixels`, `wanted` their order before the
    join. The result is a copy, uint8 `[..., height, width, 3]`.
    """
    missing = "".join(axis for axis in wanted if axis not in given)
    pixels = pixels.reshape(pixels.shape + (1,) * len(missing))
    pixels = pixels.transpose([(given + missing).index(axis) for axis in wanted])
    *before, number, width, channels = pixels.shape
    pixels = pixels.reshape(*before, number * width, channels)[..., :3]
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:-1], 3)))


def _draw(value: Figure) -> np.ndarray:
    from matplotlib import pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(value.figure)
    canvas.draw()
    if value.close:
        plt.close(value.figure)
    return np.array(canvas.buffer_rgba())[..., :3]
