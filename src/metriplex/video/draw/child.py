"""The drawing process: `python -m metriplex.video.draw.child JOBS REPLIES DIRECTORY PARENT`.

The process receives a renderer and then jobs on the descriptor JOBS. For each job it sends on
REPLIES the number of drawn frames, repeatedly, and then the `RenderResult`. The process ends when
JOBS is closed or PARENT has ended, and removes DIRECTORY, which holds its temporary files.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import shutil
import signal
import sys
from typing import TYPE_CHECKING, final

from metriplex.errors import VideoError
from metriplex.video.draw import wire
from metriplex.video.draw.drawer import draw_clip, failed
from metriplex.video.draw.jobs import RenderJob

if TYPE_CHECKING:
    from metriplex.plugins.interfaces import Renderer
    from metriplex.video.draw.jobs import RenderResult

_LOOK_UP_SECONDS = 5.0
"""Interval of checks that the parent lives; other children of the parent may hold JOBS open."""


def main(jobs: int, replies: int, directory: str, parent: int) -> None:
    """Draw jobs until JOBS is closed or the parent has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when drawing ends
        signal.signal(number, signal.SIG_IGN)
    session = None
    try:
        _wait(jobs, parent)
        session = _Session(wire.read(jobs), replies)
        while True:
            _wait(jobs, parent)
            wire.write(replies, session.draw(wire.read(jobs)))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        if session is not None:
            session.close()
        shutil.rmtree(directory, ignore_errors=True)


@final
class _Session:
    """Hold the renderer; unpickle a new one after each failure, which may leave a broken state."""

    def __init__(self, pickled: bytes, replies: int) -> None:
        self._pickled = pickled
        self._replies = replies
        self._renderer: Renderer | None = None

    def draw(self, pickled_job: bytes) -> RenderResult:
        job = RenderJob("unknown", 0, 1.0, (), ())
        try:
            job = pickle.loads(pickled_job)  # noqa: S301 - our parent's
            self._renderer = self._renderer or pickle.loads(self._pickled)  # noqa: S301
        except Exception as error:  # noqa: BLE001 - importing a user's module may raise anything
            reason = VideoError(
                f"the renderer can't be sent to the drawing process: what it needs can't be "
                f"imported there (`{type(error).__name__}: {error}`). Install it, or draw in the "
                f'training process with `video_worker="thread"`'
            )
            reason.__cause__ = error
            return failed(job, reason)
        result = draw_clip(self._renderer, job, self._report_progress)
        if result.error is not None:
            self.close()
        return result

    def close(self) -> None:
        if self._renderer is not None:
            with contextlib.suppress(Exception):
                self._renderer.close()
        self._renderer = None

    def _report_progress(self, frames: int) -> None:
        wire.write(self._replies, frames)


def _wait(descriptor: int, parent: int) -> None:
    with selectors.DefaultSelector() as selector:  # `select.select` takes none beyond 1023
        selector.register(descriptor, selectors.EVENT_READ)
        while not selector.select(_LOOK_UP_SECONDS):
            if os.getppid() != parent:
                raise EOFError


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    sys.stdout.flush()
    # Skip the interpreter's finalization, in which GL libraries crash now and then.
    os._exit(0)
