"""What crosses the plugin hooks: frozen dataclasses of NumPy and plain Python values."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - part of public annotations, read at run time
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of public annotations, read at run time
from typing import TypeAlias, final

import numpy as np

Scalar: TypeAlias = bool | int | float
"""One logged value: exact, whatever the dtype it had on the device."""


def lane_name(lane: int) -> str:
    """Names a lane of a vmapped axis, as directories and child runs show it.

    Args:
        lane: Index of the lane along the flattened vmapped axes, from 0.

    Returns:
        `seed_000`, `seed_001`, ...
    """
    return f"seed_{lane:03d}"


@final
@dataclass(frozen=True, slots=True)
class Lane:
    """One lane of a run whose lanes were described.

    Attributes:
        name: What its directory or child run is called.
        hparams: Hyper-parameters in which it differs from other lanes, by name.
    """

    name: str
    hparams: Mapping[str, Scalar | str] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run: what a backend needs to know to open it. Equal and hashable by `id`.

    Attributes:
        id: Unique in this process and, with high probability, everywhere (a hex string).
        name: The run's name, which is also the name of its directory.
        directory: Where the run's files go; exists when a backend sees it.
        start_time: Seconds since the Unix epoch at which the run was created.
        total_steps: Environment steps that the whole training will take, if known.
        resume_step: The first step that this process logs again, when the run continues an
            earlier one: what was logged at this step and beyond is superseded. None for a new run.
        lanes: Names and hyper-parameters of lanes, by index; empty if nobody has described them.
    """

    id: str
    name: str = field(compare=False)
    directory: Path = field(compare=False)
    start_time: float = field(compare=False)
    total_steps: int | None = field(default=None, compare=False)
    resume_step: int | None = field(default=None, compare=False)
    lanes: tuple[Lane, ...] = field(default=(), compare=False)

    def lane_name(self, lane: int) -> str:
        """What a lane is called in this run: as it was named, else `seed_000`, `seed_001`, ..."""
        return self.lanes[lane].name if 0 <= lane < len(self.lanes) else lane_name(lane)


@final
@dataclass(frozen=True, slots=True)
class Scalars:
    """All the scalars that one lane logged at one step.

    Attributes:
        step: Environment steps taken so far, over all environments of the lane; exact beyond 2**31.
        values: Tag to value. Tags are non-empty and joined by `/`. A value that was float16,
            bfloat16 or float32 on the device is the Python float of exactly that value.
        iteration: Index of the training iteration, from 0; None for what was logged outside one.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch at which the host received the record.
    """

    step: int
    values: Mapping[str, Scalar]
    iteration: int | None = None
    lane: int | None = None
    wall_time: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text (Markdown, where the backend shows it) at one step.

    Attributes:
        step: Environment steps taken so far.
        tag: Name under which it is shown.
        text: The text.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch.
    """

    step: int
    tag: str
    text: str
    lane: int | None = None
    wall_time: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Clip:
    """An encoded clip.

    Attributes:
        data: The whole file.
        format: `gif`, `webp` or `mp4`.
        width: In pixels, as it was drawn (the MP4 of an odd size has a column more).
        height: In pixels, as it was drawn.
        num_frames: Frames in the file: all that were drawn, unless `fps` is above what browsers
            play (50 for GIF, 90 for WebP).
        fps: Frames a second that were asked for.
        duration: Seconds that it plays.
    """

    data: bytes
    format: str
    width: int
    height: int
    num_frames: int
    fps: float
    duration: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """A clip at one step: encoded in every format that the run's backends asked for, or as frames.

    `metriplex.encode_video(video, format)` gives it encoded in either case.

    Attributes:
        step: Environment steps taken so far.
        tag: Name under which it is shown, `eval/video` for evaluation videos.
        frames: uint8 `[time, height, width, 3]`, RGB; None where only `clips` are there.
        fps: Frames a second at which the clip plays at its true speed.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch.
        clips: Format (`gif`, `webp`, `mp4`) to the encoded clip.
    """

    step: int
    tag: str
    frames: np.ndarray | None
    fps: float
    lane: int | None = None
    wall_time: float = 0.0
    clips: Mapping[str, Clip] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Rejects what no encoder could take.

        Raises:
            ValueError: `frames` is not uint8 `[time, height, width, 3]`, or there are neither
                frames nor clips, or `fps` is not positive.
        """
        if self.frames is not None:
            frames = np.asarray(self.frames)
            shape_ok = frames.ndim == 4 and frames.shape[-1] == 3 and frames.size > 0
            if not shape_ok or frames.dtype != np.uint8:
                raise ValueError(
                    f"`frames` of a video must be uint8 [time, height, width, 3], not empty; got "
                    f"{frames.dtype} {list(frames.shape)} for `{self.tag}`"
                )
        elif not self.clips:
            raise ValueError(f"a video needs `frames` or `clips`; got neither for `{self.tag}`")
        if not self.fps > 0:
            raise ValueError(f"`fps` of a video must be positive; got {self.fps} for `{self.tag}`")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A picture at one step.

    Attributes:
        step: Environment steps taken so far.
        tag: Name under which it is shown.
        pixels: uint8 `[height, width, 3]`, RGB.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch.
    """

    step: int
    tag: str
    pixels: np.ndarray
    lane: int | None = None
    wall_time: float = 0.0

    def __post_init__(self) -> None:
        """Rejects what is no picture.

        Raises:
            ValueError: `pixels` is not uint8 `[height, width, 3]`, or empty.
        """
        pixels = np.asarray(self.pixels)
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size or pixels.dtype != np.uint8:
            raise ValueError(
                f"`pixels` of an image must be uint8 [height, width, 3], not empty; got "
                f"{pixels.dtype} {list(pixels.shape)} for `{self.tag}`"
            )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often values lay between edges, at one step.

    Attributes:
        step: Environment steps taken so far.
        tag: Name under which it is shown.
        counts: int64 `[bins]`, how many values lie in each bin.
        edges: float64 `[bins + 1]`, finite and increasing; the last bin includes its upper edge.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch.
    """

    step: int
    tag: str
    counts: np.ndarray
    edges: np.ndarray
    lane: int | None = None
    wall_time: float = 0.0

    def __post_init__(self) -> None:
        """Rejects what is no histogram.

        Raises:
            ValueError: `counts` are no integers from 0 on, or `edges` are not one more, finite and
                increasing.
        """
        counts, edges = np.asarray(self.counts), np.asarray(self.edges)
        counted = counts.ndim == 1 and counts.size and counts.dtype.kind in "iu"
        if not counted or int(counts.min()) < 0:
            raise ValueError(
                f"`counts` of a histogram must be integers [bins] from 0 on; got {counts.dtype} "
                f"{list(counts.shape)} for `{self.tag}`"
            )
        if (
            edges.shape != (counts.size + 1,)
            or not np.isfinite(edges).all()
            or not (np.diff(edges) > 0).all()
        ):
            raise ValueError(
                f"`edges` of a histogram must be finite, increasing and one more than its "
                f"{counts.size} counts; got {list(edges.shape)} for `{self.tag}`"
            )


@final
@dataclass(frozen=True, slots=True)
class Artifact:
    """A file or a directory that belongs to a run, such as a checkpoint.

    Attributes:
        step: Environment steps taken so far.
        name: Its name in the run, a relative path with `/` between its parts.
        path: Where it is: a copy in the run's directory that nobody changes.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch.
    """

    step: int
    name: str
    path: Path
    lane: int | None = None
    wall_time: float = 0.0


Media: TypeAlias = Text | Video | Image | Histogram | Artifact
"""What is logged one by one, by a hook of its own."""


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a plugin found out about this machine, for `metriplex doctor`.

    Attributes:
        works: Whether the plugin can do its work here, as far as it can tell without doing it.
        summary: What was found, in a sentence: versions, drivers, the account that is logged in.
        remedy: How to mend what doesn't work; empty if nothing is to be done.
    """

    works: bool
    summary: str
    remedy: str = ""


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the records that were meant for one backend.

    Attributes:
        backend: The backend's name in this run.
        delivered: Records that the backend took without an error (a video or text counts as one).
        undelivered: Records that it did not: dropped from a full queue, failed, or still queued
            when the run was closed.
        error: The last error that the backend raised, as `Type: message`; None if it raised none.
        suspended: Whether the backend was given up because it kept failing.
        journaled: How many of the undelivered are kept in the run's journal, from where `metriplex
            replay` sends them.
    """

    backend: str
    delivered: int
    undelivered: int
    error: str | None = None
    suspended: bool = False
    journaled: int = 0
