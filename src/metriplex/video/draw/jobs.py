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
    """A clip to draw."""

    tag: str
    step: int  # environment steps taken before the rollout was recorded
    fps: float
    formats: tuple[str, ...]  # to encode: `gif`, `webp`, `mp4`
    states: Sequence[Any] = field(repr=False)
    """Results of `Renderer.select`, as NumPy arrays, in order of time."""
    lane: int | None = None
    iteration: int | None = None
    wall_time: float = 0.0  # seconds since the Unix epoch at which the states reached the host

    def without_states(self) -> RenderJob:
        """Return the job without its arrays, as a label for a result."""
        return dataclasses.replace(self, states=())


@final
@dataclass(frozen=True, slots=True, eq=False)
class RenderResult:
    """The result of a job."""

    job: RenderJob  # without its states
    clips: Mapping[str, Clip] = field(default_factory=dict)  # by format; what failed is missing
    error: str | None = None  # reason why formats are missing, in a sentence
    details: str = ""  # traceback, or the last output of the drawing process
