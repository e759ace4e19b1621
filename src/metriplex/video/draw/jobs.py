"""Jobs and results of the render worker."""

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
        tag: Tag of the video.
        step: Environment steps taken before the rollout was recorded.
        fps: Frames a second at which the clip plays.
        formats: Formats to encode: `gif`, `webp`, `mp4`.
        states: Result of `Renderer.select` for each state, as NumPy arrays, in order of time.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        iteration: Index of the training iteration; None outside an iteration.
        wall_time: Seconds since the Unix epoch at which the states reached the host.
    """

    tag: str
    step: int
    fps: float
    formats: tuple[str, ...]
    states: Sequence[Any] = field(repr=False)
    lane: int | None = None
    iteration: int | None = None
    wall_time: float = 0.0

    def without_states(self) -> RenderJob:
        """Return the job without its arrays, as a label for a result."""
        return dataclasses.replace(self, states=())


@final
@dataclass(frozen=True, slots=True, eq=False)
class RenderResult:
    """The result of a job.

    Attributes:
        job: The job, without its states.
        clips: Format to clip, for the formats that were encoded.
        error: Reason why formats are missing, in a sentence; None if no format is missing.
        details: Traceback, or the last output of the drawing process; may be empty.
    """

    job: RenderJob
    clips: Mapping[str, Clip] = field(default_factory=dict)
    error: str | None = None
    details: str = ""
