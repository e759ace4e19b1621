"""Average the episodes of a Gymnasium vector environment in a Python loop."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from metriplex.errors import LoggingError


@final
class VectorEpisodes:
    """Moving averages of return and length, equal to those of `MetricsCallback` in compiled code.

        episodes = VectorEpisodes(envs)
        ...
        observation, reward, terminated, truncated, _ = envs.step(action)
        episodes.update(reward, terminated, truncated)
        metrics.log(episodes.steps, {"episode": episodes.averages(), "train": {"loss": loss}})

    In Gymnasium's default autoreset mode, the step that resets a sub-environment belongs to no
    episode, and is not counted.

    Args:
        envs: The vector environment; its `num_envs` and its autoreset mode are read.
        alpha: Weight of the newest episode in the averages, in (0, 1].

    Attributes:
        steps: Environment steps taken in all sub-environments.
    """

    def __init__(self, envs: Any, alpha: float = 0.9) -> None:
        self.steps = 0
        self._alpha = alpha
        mode = str(getattr(envs, "metadata", {}).get("autoreset_mode", "NextStep"))
        self._resets_by_a_step = mode.rpartition(".")[2].replace("_", "").lower() == "nextstep"
        number = int(envs.num_envs)
        self._return = np.zeros(number)
        self._length = np.zeros(number, np.int64)
        self._averages = np.full((2, number), np.nan)
        self._resetting = np.zeros(number, bool)

    def update(self, reward: Any, terminated: Any, truncated: Any) -> None:
        """Add one step of all sub-environments.

        Args:
            reward: `[num_envs]`.
            terminated: bool `[num_envs]`.
            truncated: bool `[num_envs]`.

        Raises:
            LoggingError: An argument has another shape.
        """
        reward, terminated, truncated = map(np.asarray, (reward, terminated, truncated))
        given = {"reward": reward, "terminated": terminated, "truncated": truncated}
        for name, array in given.items():
            if array.shape != self._return.shape:
                raise LoggingError(
                    f"`{name}` has shape {list(array.shape)}, and the environment has "
                    f"{len(self._return)} sub-environments: pass what its `step` gave"
                )
        played = ~self._resetting
        done = (terminated | truncated) & played
        self.steps += int(played.sum())
        self._return += np.where(played, reward, 0.0)
        self._length += played
        newest = np.stack([self._return, self._length])
        moved = self._alpha * newest + (1 - self._alpha) * self._averages
        moved = np.where(np.isnan(self._averages), newest, moved)
        self._averages = np.where(done, moved, self._averages)
        self._return[done] = 0.0
        self._length[done] = 0
        self._resetting = done if self._resets_by_a_step else np.zeros_like(done)

    def averages(self) -> dict[str, float]:
        """Return the means over the sub-environments that have finished an episode.

        Returns:
            `return` and `length`; empty before the first episode has ended.
        """
        if np.isnan(self._averages).all():
            return {}
        mean_return, mean_length = np.nanmean(self._averages, axis=1).tolist()
        return {"return": mean_return, "length": mean_length}
