"""The options of a run's videos."""

from __future__ import annotations

from typing import Any

from metriplex.validation import (
    check_choice,
    check_count,
    check_positive,
)


def check_video(
    *, interval: Any, num_steps: Any, width: Any, height: Any, fps: Any, mode: Any
) -> dict[str, Any]:
    """Gives back what describes the videos of a run.

    Raises:
        ConfigurationError: A value is not usable.
    """
    return {
        "interval": check_count("video_interval", interval, least=0),
        "num_steps": check_count("video_num_steps", num_steps, least=1),
        "width": check_count("video_width", width, least=1),
        "height": check_count("video_height", height, least=1),
        "fps": check_positive("video_fps", fps),
        "mode": check_choice("video_worker", mode, ("process", "thread")),
    }
