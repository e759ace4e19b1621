"""The video recorder: turn rollouts that reach the host into videos, off the training path."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Literal, final

from metriplex.errors import ClosedError
from metriplex.records import Video
from metriplex.video.draw.jobs import RenderJob, RenderResult
from metriplex.video.draw.player import Player
from metriplex.video.draw.worker import RenderWorker
from metriplex.video.play.payloads import States, find

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metriplex.bridge.rows import Row
    from metriplex.plugins.interfaces import Renderer

logger = logging.getLogger("metriplex")

TAG = "eval/video"

_TOO_LATE = "everything else is logged; a greater `close_timeout`, or None, waits longer for videos"

_BACKLOG = 8
"""Rollouts that may wait; they hold states, no frames."""


@final
class VideoRecorder:
    """Draw and encode rollouts with a worker, and log the videos.

    A vmapped run shows its first lane. A rollout that the device can't play is played on a thread
    of its own first.
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
        self._closing = False
        self._log_video = log_video
        self._fps = fps
        self._formats = formats
        self._worker = RenderWorker(
            renderer, mode=mode, on_result=self._on_result, backlog=_BACKLOG
        )
        self._player = Player(self._draw, self._warn)

    def submit(self, row: Row) -> None:
        """Queue a rollout and return at once; called by the receiver."""
        if row.lane not in {None, 0}:
            return
        payload, arrays = find(row.values)
        if isinstance(payload, States):
            self._draw(row, list(payload.selected(arrays)))
        else:
            self._player.submit(row, payload, arrays)

    def close(self, timeout: float) -> None:
        """Wait for the queued videos, at most `timeout` seconds, and end the worker."""
        self._closing = True
        deadline = time.monotonic() + timeout
        self._player.close(timeout)
        self._worker.close(max(deadline - time.monotonic(), 0.0))

    def _draw(self, row: Row, states: Sequence[Any]) -> None:
        self._worker.submit(
            RenderJob(
                tag=TAG,
                step=row.step,
                lane=row.lane,
                fps=self._fps,
                formats=self._formats,
                states=states,
                iteration=row.iteration,
                wall_time=row.wall_time,
            )
        )

    def _on_result(self, result: RenderResult) -> None:
        """Log a video, and a warning if formats are missing; called on the worker's thread."""
        job = result.job
        if result.error is not None:
            self._warn(job.iteration, job.step, result.error, result.details)
        if not result.clips:
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
            self._warn(job.iteration, job.step, "it came too late: the run is closed")

    def _warn(self, iteration: int | None, step: int, reason: str, details: str = "") -> None:
        last = details.strip().rpartition("\n")[2].strip()
        logger.warning(
            "no evaluation video of iteration %s (step %d): %s%s; %s",
            iteration,
            step,
            reason,
            f" (last printed: {last})" if last and last not in reason else "",
            _TOO_LATE if self._closing else "training goes on, and the next one is tried again",
        )
        if details:
            logger.debug("%s", details)
