"""The render worker: draw and encode clips one after another, off the training path."""

from __future__ import annotations

import collections
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, final

from metriplex.errors import ConfigurationError, VideoError
from metriplex.video.draw.drawer import CLOSED, Drawer, ThreadDrawer, failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.plugins.interfaces import Renderer
    from metriplex.video.draw.jobs import RenderJob, RenderResult

logger = logging.getLogger("metriplex")

MODES = ("process", "thread")

REPORT_SECONDS = 5.0
"""Interval of the lines that say how many clips `close` waits for."""

_WITHOUT_LIMIT = 1e6
_GRACE_SECONDS = 10.0
"""Seconds for which `close` waits for the thread after it abandoned the clips."""


@final
class RenderWorker:
    """Draw jobs in the background, in the order of their submission.

    One thread of this process talks to one drawing process, which does all the work and starts at
    the first job; with `mode="thread"` the thread does the work itself. The queue is short: a job
    that doesn't fit drops the oldest waiting job, so the newest clip is always made.

    No method raises because of a renderer, an encoder or the process. `close` must be called before
    the interpreter ends, because a thread that draws at that time would crash the interpreter.
    """

    def __init__(
        self,
        renderer: Renderer,
        *,
        on_result: Callable[[RenderResult], None],
        mode: str = "process",
        nice: int = 19,
        timeout_secs: float = 120.0,
        backlog: int = 2,
    ) -> None:
        """Pickle the renderer; start nothing before the first job.

        The drawing process unpickles the renderer again after each failure. `on_result` gets the
        result of every job, once each, on the worker's thread (or on the submitting thread, for a
        job submitted after `close`); its exceptions are logged. `nice` is the niceness of the
        drawing process, 0 (like training) to 19 (only when no other process wants the processor).
        The process is killed after `timeout_secs` without a new frame; the first frame includes its
        start. `backlog` jobs may wait while one is drawn.

        Raises:
            ConfigurationError: The renderer can't be pickled, cloudpickle is not installed, or
                another argument is invalid.
        """
        if mode not in MODES:
            raise ConfigurationError(f"`video_worker` must be one of {MODES}; got {mode!r}")
        if backlog < 1 or not 0 < timeout_secs < math.inf:
            raise ConfigurationError(
                f"`backlog` must be at least 1 and `timeout_secs` a positive number; got {backlog} "
                f"and {timeout_secs}"
            )
        self._drawer: Drawer
        if mode == "thread":
            self._drawer = ThreadDrawer(renderer)
        else:
            self._drawer = _process_drawer(renderer, nice, timeout_secs)
        self._on_result = on_result
        self._backlog = backlog
        self._waiting: collections.deque[RenderJob] = collections.deque()
        self._refused: collections.deque[RenderResult] = collections.deque()
        self._drawn: list[RenderResult] = []  # the newest first, until all of them are there
        self._changed = threading.Condition()
        self._busy = False
        self._closing = False
        self._newest_first = False
        self._thread: threading.Thread | None = None
        self.dropped = 0  # number of jobs, in favour of newer jobs

    def submit(self, job: RenderJob) -> None:
        """Queue a job, whose arrays must not be changed afterwards; never block, never raise."""
        with self._changed:
            if not self._closing and self._started():
                self._waiting.append(job)
                if len(self._waiting) > self._backlog:
                    self._drop(self._waiting.popleft())
                self._changed.notify_all()
                return
        self._report(failed(job, VideoError("the run was closed before the clip was asked for")))

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for all results; return True if no job is left."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def close(self, timeout: float) -> None:
        """Wait for the queued clips, then end the thread and the drawing process.

        The newest of the queued clips is drawn first; their results come in order, at the end.
        Clips that are unfinished after `timeout` seconds are abandoned. When this returns, every
        job has its result, unless the renderer of a thread hangs. May be called twice, and at the
        interpreter's exit.
        """
        self._drawer.restore_priority()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
            self._newest_first = True
            in_time = self._wait_for_clips(timeout) if thread else True
            if not in_time:
                self._refused += [failed(job, VideoError(CLOSED)) for job in self._waiting]
                self._waiting.clear()
        if not in_time:
            self._drawer.stop()
        if thread is None or thread is threading.current_thread():
            return
        thread.join(_GRACE_SECONDS)
        if thread.is_alive():
            logger.error("the renderer hangs: its thread is still drawing, and is left behind")
            self._report_drawn()

    def _wait_for_clips(self, timeout: float) -> bool:
        """Wait until nothing is left, and log at intervals how much is; False after `timeout`."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if self._changed.wait_for(self._idle, min(left, REPORT_SECONDS)):
                return True
            if left > REPORT_SECONDS:
                count = len(self._waiting) + self._busy
                limit = f", {left:.0f} s at most" if left < _WITHOUT_LIMIT else ""
                logger.warning("waiting for %d evaluation video(s)%s", count, limit)
        return self._idle()

    def _started(self) -> bool:
        """Start the thread if needed; return False if the exiting interpreter can't start one."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="metriplex-video", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _drop(self, job: RenderJob) -> None:
        self.dropped += 1
        reason = (
            f"it was dropped, as newer clips waited to be drawn ({self.dropped} in all): drawing "
            f"takes longer than `video_interval` iterations"
        )
        self._refused.append(failed(job, VideoError(reason)))

    def _idle(self) -> bool:
        return not (self._waiting or self._refused or self._drawn or self._busy)

    def _work(self) -> None:
        try:
            while self._next():
                pass
        finally:
            self._drawer.close()

    def _next(self) -> bool:
        """Report the result of one job; return False after the last one."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._refused or self._closing)
            if self._idle():
                return False
            self._busy = True
            newest_first = self._newest_first
            refused = self._refused.popleft() if self._refused else None
            take = self._waiting.pop if newest_first else self._waiting.popleft
            job = take() if self._waiting and refused is None else None
        if refused is not None:
            self._report(refused)
        elif job is None:
            self._report_drawn()
        elif newest_first:
            result = self._drawer.draw(job)
            with self._changed:
                self._drawn.append(result)
        else:
            self._report(self._drawer.draw(job))
        return True

    def _report_drawn(self) -> None:
        """Report what was drawn with the newest first, in the order of the jobs."""
        with self._changed:
            drawn, self._drawn = self._drawn[::-1], []
        for result in drawn:
            self._report(result)

    def _report(self, result: RenderResult) -> None:
        try:
            self._on_result(result)
        except Exception:
            logger.exception("the result of a clip could not be handed on")


def _process_drawer(renderer: Renderer, nice: int, timeout_secs: float) -> Drawer:
    try:
        from metriplex.video.draw.process import ProcessDrawer
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"videos are drawn in a process of their own, which needs `{error.name}`: "
            f"`pip install 'metriplex[video]'`, or draw in the training process with "
            f'`video_worker="thread"`'
        ) from error
    return ProcessDrawer(renderer, nice=nice, timeout_secs=timeout_secs)
