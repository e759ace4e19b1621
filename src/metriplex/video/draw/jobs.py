"""What is asked of the render worker, and what it answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex.video.encode.clip import Clip


@final
@dataclass(frozen=True, slots=True, eq=False)
class RenderJob:
    """A clip to draw.

    Attributes:
        tag: Name under which it will be shown.
        step: Environment steps taken before it was recorded.
        fps: Frames a second at which it plays.
        formats: The files that are wanted: `gif`, `webp`, `mp4`.
        frames: What `Renderer.select` chose of each state, of NumPy arrays; in the order of time.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        iteration: Index of the training iteration; None if it was asked for outside one.
        wall_time: Seconds since the Unix epoch at which the states reached the host.
    """

    tag: str
    step: int
    fps: float
    formats: tuple[str, ...]
    frames: Sequence[Any] = field(repr=False)
    lane: int | None = None
    iteration: int | None = None
    wall_time: float = 0.0

    def without_states(self) -> RenderJob:
        """The same job as a label: it holds no arrays."""
        return dataclasses.replace(self, frames=())


@final
@dataclass(frozen=True, slots=True, eq=False)
class RenderResult:
    """What became of a job.

    Attributes:
        job: The job, without its states.
        clips: Format to clip, for those that could be made.
        error: Why some are missing, in a sentence; None if none is.
        details: What helps to find the cause: a traceback, or what the drawing process printed
            last; may be empty.
    """

    job: RenderJob
    clips: Mapping[str, Clip] = field(default_factory=dict)
    error: str | None = None
    details: str = ""
