"""Log Stable-Baselines3 and SBX trainings with a callback for `model.learn(callback=...)`."""

from __future__ import annotations

import inspect
import logging
import math
from typing import TYPE_CHECKING, Any, final

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import (
    Figure,
    HParam,
    Image,
    KVWriter,
    Video,
    filter_excluded_keys,
)

from metriplex.bridge.strictness import under_own_rules
from metriplex.errors import ClosedError
from metriplex.integrations.plain_values import as_array, plain_value
from metriplex.validation import check_tag

if TYPE_CHECKING:
    from metriplex.callback.callback import MetricsCallback

logger = logging.getLogger("metriplex")

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
    `eval/length`. Arrays are logged as histograms, and the images of a batch as one row. Values of
    all other types are logged as texts. A value that can't be logged, such as an image given by a
    path, is left out, with a warning in the log at the first one of its tag. Values with
    `exclude="tensorboard"` or `exclude="metriplex"` are not logged.

    Args:
        metrics: The run; it stays open when the logger is closed.
    """

    def __init__(self, metrics: MetricsCallback) -> None:
        self._metrics = metrics
        self._left_out: set[str] = set()

    @property
    def closed(self) -> bool:
        """True if the run is closed."""
        return self._metrics.run.closed

    @under_own_rules
    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Log the values that were recorded since the last dump.

        Args:
            key_values: Name to value.
            key_excluded: Name to the outputs that exclude the value.
            step: Environment steps taken so far.

        Raises:
            ClosedError: The run is closed.
        """
        for output in ("tensorboard", "metriplex"):
            key_values = filter_excluded_keys(key_values, key_excluded, output)
        scalars: dict[str, Any] = {}
        for name, value in key_values.items():
            renamed = _RENAMED.get(name, name)
            tag = str(name if renamed in key_values else renamed)
            try:
                check_tag(tag)
                plain = self._log_media(tag, value, step)
            except ClosedError:
                raise
            except Exception as error:  # noqa: BLE001 - no value ends a training
                self._leave_out(tag, value, error)
                continue
            if plain is not None and not (name == _UNDEFINED and math.isnan(plain)):
                scalars[tag] = plain
        try:
            if scalars:
                self._metrics.log(step, scalars)
        except ClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - as above: a tag or a step that no record can have
            self._leave_out(", ".join(scalars), scalars, error)

    def close(self) -> None:
        """Do nothing: the code that opened the run closes it."""

    def _log_media(self, tag: str, value: Any, step: int) -> bool | int | float | None:
        """Log a value unless it is a number, which is returned."""
        metrics = self._metrics
        match value:
            case Video():
                frames = _side_by_side(as_array(value.frames), "NTCHW", "THNWC")
                metrics.log_video(tag, frames, fps=float(value.fps), step=step)
            case Image():
                pixels = _side_by_side(as_array(value.image), value.dataformats.upper(), "HNWC")
                metrics.log_image(tag, pixels, step=step)
            case Figure():
                metrics.log_image(tag, _draw(value), step=step)
            case HParam():
                metrics.log_hparams(dict(value.hparam_dict))
            case _:
                plain = plain_value(value)
                if isinstance(plain, bool | int | float | None):
                    return plain
                if isinstance(plain, str):
                    metrics.log_text(tag, plain, step=step)
                else:
                    metrics.log_histogram(tag, plain, step=step)
        return None

    def _leave_out(self, tag: str, value: Any, error: Exception) -> None:
        if tag not in self._left_out:
            self._left_out.add(tag)
            logger.warning(
                "`%s` (`%s`) can't be logged and is left out: %s: %s; "
                '`record(..., exclude="metriplex")` ends this warning',
                *(tag, type(value).__name__, type(error).__name__, error),
            )


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
        pixels = (np.clip(np.nan_to_num(pixels), 0, 1) * 255).round().astype(np.uint8)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:-1], 3)))


def _draw(value: Figure) -> np.ndarray:
    """Return the pixels of a figure, or of a list of figures of one size side by side."""
    from matplotlib import pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    pictures = []
    for figure in value.figure if isinstance(value.figure, list) else [value.figure]:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pictures.append(np.array(canvas.buffer_rgba())[..., :3])
        if value.close:
            plt.close(figure)
    return np.concatenate(pictures, axis=1)
