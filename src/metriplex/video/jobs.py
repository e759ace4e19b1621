"""What is asked of the render worker, and what it answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metriplex.video.encoding import Clip


@final
@dataclass(frozen=True, slots=True, eq=False)
class RenderJob:
    """A clip to draw.

    Attributes:
        tag: Name under which it will be shown.
        step: Environment steps taken before it was recorded.
        fps: Frames a second at which it plays.
        formats: The files that are wanted: `gif`, `webp`, `mp4`.
        selected: One state a frame, as `Renderer.select` chose it: NumPy arrays with a leading axis
            `[time]`, in any pytree.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        iteration: Index of the training iteration; None if it was asked for outside one.
        wall_time: Seconds since the Unix epoch at which the states reached the host.
    """

    tag: str
    step: int
    fps: float
    formats: tuple[str, ...]
    selected: Any = field(repr=False)
    lane: int | None = None
    iteration: int | None = None
    wall_time: float = 0.0

    def without_states(self) -> RenderJob:
        """The same job as a label: it holds no arrays."""
        return dataclasses.replace(self, selected=None)


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


def count_frames(selected: Any) -> int:
    """The length of the leading axis that all arrays of a job share.

    Args:
        selected: `RenderJob.selected`.

    Raises:
        VideoError: There is no array, or they differ.
    """
    from jax import tree_util

    shapes = [np.shape(leaf) for leaf in tree_util.tree_leaves(selected)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or None in lengths:
        raise VideoError(
            f"the selected states must be arrays with one leading axis [time] in common; got "
            f"shapes {shapes}: `select` of the renderer must give arrays, at least one"
        )
    return shapes[0][0]


def frame_at(selected: Any, index: int) -> Any:
    """The selected state of one frame, of the same structure, without the leading axis.

    Args:
        selected: `RenderJob.selected`.
        index: Which frame.
    """
    from jax import tree_util

    return tree_util.tree_map(lambda leaf: np.asarray(leaf[index]), selected)
