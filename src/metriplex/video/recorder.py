"""Turns the rollouts that reach the host into videos, off the training path."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, final

from metriplex.errors import ClosedError
from metriplex.records import Video
from metriplex.video.jobs import RenderJob, RenderResult
from metriplex.video.program import frames_of
from metriplex.video.worker import RenderWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.rendering import Renderer
    from metriplex.sequence import Row

logger = logging.getLogger("metriplex")

TAG = "eval/video"

_BACKLOG = 8
"""Rollouts that may wait; they hold states, not frames."""


@final
class VideoRecorder:
    """Has rollouts drawn and encoded by a worker, and logs what comes back.

    Of a vmapped run, the first lane is shown.
    """

    def __init__(
        self,
        renderer: Renderer,
        log_video: Callable[[Video], None],
        *,
        fps: float,
        formats: tuple[str, ...],
        mode: Literal["process", "thread"],
    ) -> None:
        self._log_video = log_video
        self._fps = fps
        self._formats = formats
        self._worker = RenderWorker(
            renderer, mode=mode, on_result=self._on_result, backlog=_BACKLOG
        )

    def submit(self, row: Row) -> None:
        """Takes a rollout; returns at once. The drain thread calls."""
        if row.lane not in {None, 0}:
            return
        job = RenderJob(
            tag=TAG,
            step=row.step,
            lane=row.lane,
            fps=self._fps,
            formats=self._formats,
            frames=frames_of(row.values),
            iteration=row.iteration,
            wall_time=row.wall_time,
        )
        self._worker.submit(job)

    def close(self, timeout: float) -> None:
        """Waits for the videos under way, `timeout` seconds at most, and ends the worker."""
        self._worker.close(timeout)

    def _on_result(self, result: RenderResult) -> None:
        """Logs a video, or why there is none. The worker's thread calls."""
        job = result.job
        if result.error is not None:
            logger.warning(
                "no evaluation video of iteration %s (step %d): %s; training goes on, and the next "
                "one is tried again",
                job.iteration,
                job.step,
                result.error,
            )
            return
        try:
            self._log_video(
                Video(
                    job.step,
                    job.tag,
                    None,
                    job.fps,
                    lane=job.lane,
                    wall_time=job.wall_time,
                    clips=result.clips,
                )
            )
        except ClosedError:
            logger.warning(
                "the evaluation video of step %d came too late: the run is closed", job.step
            )
