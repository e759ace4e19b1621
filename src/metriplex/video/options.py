"""The options of a run's videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

from metriplex.validation import check_choice, check_count, check_positive

WorkerMode: TypeAlias = Literal["process", "thread"]


@final
@dataclass(frozen=True, slots=True)
class VideoOptions:
    """The arguments `video_...` of a callback, checked."""

    interval: int  # iterations between two videos; 0 for no videos
    num_steps: int
    width: int  # pixels
    height: int
    fps: float
    mode: WorkerMode


def check_video(
    *, interval: Any, num_steps: Any, width: Any, height: Any, fps: Any, mode: Any
) -> VideoOptions:
    """Return the options of a run's videos; raise `ConfigurationError` if a value is not usable."""
    return VideoOptions(
        interval=check_count("video_interval", interval, least=0),
        num_steps=check_count("video_num_steps", num_steps, least=1),
        width=check_count("video_width", width, least=1),
        height=check_count("video_height", height, least=1),
        fps=check_positive("video_fps", fps),
        mode=check_choice("video_worker", mode, ("process", "thread")),
    )
