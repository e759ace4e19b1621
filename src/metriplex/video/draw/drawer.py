"""Draw a clip in a process or in a thread: states in, encoded files out."""

from __future__ import annotations

import abc
import contextlib
import threading
import traceback
from typing import TYPE_CHECKING, final

from metriplex.errors import VideoError
from metriplex.video.draw.jobs import RenderJob, RenderResult
from metriplex.video.encode.clip import Clip, ClipEncoder

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from metriplex.plugins.interfaces import Renderer

CLOSED = "the run was closed before the clip was done"


def draw_clip(renderer: Renderer, job: RenderJob, progress: Callable[[int], None]) -> RenderResult:
    """Draw and encode one clip, frame by frame.

    Args:
        renderer: Renderer of the states.
        job: Clip to draw.
        progress: Called with the number of drawn frames, before each frame and before each file is
            finished. An exception that it raises ends the clip.

    Returns:
        The result, which holds every exception of the renderer or of an encoder. If one format
        fails, the other formats are still encoded.
    """
    label = job.without_states()
    errors: dict[str, Exception] = {}
    clips: dict[str, Clip] = {}
    try:
        count = len(job.states)
        with contextlib.ExitStack() as stack:
            encoders = {
                format_: stack.enter_context(ClipEncoder(fps=job.fps, format=format_))
                for format_ in job.formats
            }
            for index in range(count):
                progress(index)
                frame = _render(renderer, job, index, count)
                for format_ in [name for name in encoders if name not in errors]:
                    try:
                        encoders[format_].write(frame)
                    except Exception as error:  # noqa: BLE001 - reported in the result
                        errors[format_] = error
                if len(errors) == len(encoders):
                    break
            for format_ in [name for name in encoders if name not in errors]:
                progress(count)
                try:
                    clips[format_] = encoders[format_].finish()
                except Exception as error:  # noqa: BLE001 - reported in the result
                    errors[format_] = error
    except BaseException as error:  # noqa: BLE001 - a renderer may raise anything, SystemExit too
        return failed(label, error)
    if not errors:
        return RenderResult(label, clips)
    missing = " and no ".join(name for name in job.formats if name in errors)
    reasons = "; ".join(dict.fromkeys(map(_reason, errors.values())))
    details = "\n".join(map(_text, errors.values()))
    return RenderResult(label, clips, f"no {missing}: {reasons}", details)


def failed(job: RenderJob, error: BaseException) -> RenderResult:
    """Return the result of a job that an exception ended.

    Args:
        job: The job.
        error: The exception. The reason names its type, unless the exception is a `VideoError`.
    """
    return RenderResult(job.without_states(), error=_reason(error), details=_text(error))


def _render(renderer: Renderer, job: RenderJob, index: int, count: int) -> np.ndarray:
    try:
        return renderer.render(job.states[index])
    except BaseException as error:
        raise VideoError(
            f"the renderer raised `{type(error).__name__}: {error}` at frame {index} of {count}"
        ) from error


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, VideoError) else f"{type(error).__name__}: {error}"


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


class Drawer(abc.ABC):
    """Draw jobs one after another, on the worker's thread."""

    @abc.abstractmethod
    def draw(self, job: RenderJob) -> RenderResult:
        """Draw a clip; never raise. Block until the clip is done or failed, or until `stop`."""

    @abc.abstractmethod
    def restore_priority(self) -> None:
        """Draw at normal priority from now on, because a caller waits; called by another thread."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Make this and every later `draw` return as soon as possible; called by another thread."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; never raise. The last call."""


@final
class ThreadDrawer(Drawer):
    """Draw in this process, for renderers that can't be sent to another process."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._stopped = threading.Event()

    def draw(self, job: RenderJob) -> RenderResult:
        """See `Drawer.draw`; `stop` takes effect between two frames."""
        return draw_clip(self._renderer, job, self._check)

    def restore_priority(self) -> None:
        """See `Drawer.restore_priority`; a thread has no priority of its own."""

    def stop(self) -> None:
        """See `Drawer.stop`."""
        self._stopped.set()

    def close(self) -> None:
        """See `Drawer.close`."""
        with contextlib.suppress(Exception):
            self._renderer.close()

    def _check(self, _frames: int) -> None:
        if self._stopped.is_set():
            raise VideoError(CLOSED)
