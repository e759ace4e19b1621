"""Define the records that plugin hooks receive: immutable NumPy and Python values."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - part of public annotations, read at run time
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of public annotations, read at run time
from typing import Any, NoReturn, TypeAlias, TypeVar, final

import numpy as np

_Value = TypeVar("_Value")

Scalar: TypeAlias = bool | int | float
"""One logged value, exactly as it was on the device, in every dtype."""


@final
class _ReadOnlyDict(dict[str, _Value]):
    """A dict that refuses changes: `json`, `pickle` and clients' checks take it as any other."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            "a record's mapping is read-only, as every backend is given the same one;"
            " change a copy: `dict(mapping)`"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def copy(self) -> dict[str, _Value]:
        """Return a dict that can be changed."""
        return dict(self)

    def __copy__(self) -> _ReadOnlyDict[_Value]:
        """Return itself, as other immutable values do."""
        return self

    def __deepcopy__(self, memo: object) -> _ReadOnlyDict[_Value]:
        """Return itself: keys and values are immutable too."""
        return self

    def __reduce__(self) -> tuple[type[_ReadOnlyDict[_Value]], tuple[dict[str, _Value]]]:
        """Pickle as a whole: by default items are set one by one, which is refused."""
        return _ReadOnlyDict, (dict(self),)


def read_only(mapping: Mapping[str, _Value]) -> Mapping[str, _Value]:
    """Return a copy of a mapping as a dict that refuses changes."""
    return mapping if isinstance(mapping, _ReadOnlyDict) else _ReadOnlyDict(mapping)


def _set(record: object, name: str, value: Any) -> None:
    """Set an attribute of a frozen record while it is made."""
    object.__setattr__(record, name, value)


def _read_only_array(array: Any) -> np.ndarray:
    """Return a view of an array that nobody can write by."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def lane_name(lane: int) -> str:
    """Return the default name of a lane: `seed_000`, `seed_001`, ...

    Args:
        lane: Index of the lane along the flattened vmapped axes, from 0.
    """
    return f"seed_{lane:03d}"


@final
@dataclass(frozen=True, slots=True)
class Lane:
    """The name and the hyper-parameters of one lane of a run.

    Attributes:
        name: Name of the lane's directory or child run.
        hparams: Hyper-parameters by which the lane differs from other lanes, by name.
    """

    name: str
    hparams: Mapping[str, Scalar | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make `hparams` read-only."""
        _set(self, "hparams", read_only(self.hparams))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the mapping as a dict."""
        return Lane, (self.name, dict(self.hparams))


@final
@dataclass(frozen=True, slots=True)
class RunInfo:
    """The description of a run that a backend opens. Equal and hashable by `id`.

    Attributes:
        id: Unique in this process and, with high probability, everywhere (a hex string).
        name: The run's name, which is also the name of its directory.
        directory: Directory of the run's files; exists before a backend gets the run.
        start_time: Seconds since the Unix epoch at which the run was created.
        total_steps: Environment steps that the whole training will take, if known.
        resume_step: The first step that a resumed run logs again: records of this step or a later
            one that were logged before are superseded. None for a new run.
        lanes: Names and hyper-parameters of lanes, by index; empty if the lanes were not described.
    """

    id: str
    name: str = field(compare=False)
    directory: Path = field(compare=False)
    start_time: float = field(compare=False)
    total_steps: int | None = field(default=None, compare=False)
    resume_step: int | None = field(default=None, compare=False)
    lanes: tuple[Lane, ...] = field(default=(), compare=False)

    def lane_name(self, lane: int) -> str:
        """Return the name of a lane in this run; by default `seed_000`, `seed_001`, ..."""
        return self.lanes[lane].name if 0 <= lane < len(self.lanes) else lane_name(lane)


@final
@dataclass(frozen=True, slots=True)
class Scalars:
    """All scalars that one lane logged at one step.

    Attributes:
        step: Environment steps taken so far, over all environments of the lane; exact beyond 2**31.
        values: Tag to value. Tags are non-empty and joined by `/`. A value that was float16,
            bfloat16 or float32 on the device is the Python float of exactly that value.
        iteration: Index of the training iteration, from 0; None for scalars logged outside one.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch at which the host received the record.
    """

    step: int
    values: Mapping[str, Scalar]
    iteration: int | None = None
    lane: int | None = None
    wall_time: float = 0.0

    def __post_init__(self) -> None:
        """Make `values` read-only: every backend and the journal get the same record."""
        _set(self, "values", read_only(self.values))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the mapping as a dict."""
        fields = self.step, dict(self.values), self.iteration, self.lane, self.wall_time
        return Scalars, fields


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A text at one step, rendered as Markdown by backends that can.

    Attributes:
        step: Environment steps taken so far.
        tag: Name of the text.
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
        width: Width in pixels as drawn (the MP4 of an odd width has one column more).
        height: Height in pixels as drawn.
        num_frames: Frames in the file: all drawn frames, unless `fps` is above what browsers
            play (50 for GIF, 90 for WebP).
        fps: Requested frames a second.
        duration: Playing time in seconds.
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
    """A clip at one step: encoded in every format that the run's backends requested, or as frames.

    `metriplex.encode_video(video, format)` returns the encoded clip in either case.

    Attributes:
        step: Environment steps taken so far.
        tag: Name of the video, `eval/video` for evaluation videos.
        frames: uint8 `[time, height, width, 3]`, RGB; None if the video has only `clips`.
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
        """Raise a ValueError if `frames` or `fps` is invalid, or frames and clips are missing."""
        _set(self, "clips", read_only(self.clips))
        if self.frames is not None:
            frames = _read_only_array(self.frames)
            _set(self, "frames", frames)
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the mapping as a dict."""
        moment = self.lane, self.wall_time
        return Video, (self.step, self.tag, self.frames, self.fps, *moment, dict(self.clips))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A picture at one step.

    Attributes:
        step: Environment steps taken so far.
        tag: Name of the picture.
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
        """Raise a ValueError if `pixels` is empty or not uint8 `[height, width, 3]`."""
        pixels = _read_only_array(self.pixels)
        _set(self, "pixels", pixels)
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size or pixels.dtype != np.uint8:
            raise ValueError(
                f"`pixels` of an image must be uint8 [height, width, 3], not empty; got "
                f"{pixels.dtype} {list(pixels.shape)} for `{self.tag}`"
            )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """A histogram of values at one step.

    Attributes:
        step: Environment steps taken so far.
        tag: Name of the histogram.
        counts: int64 `[bins]`, the number of values in each bin.
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
        """Raise a ValueError if `counts` or `edges` is invalid."""
        counts, edges = _read_only_array(self.counts), _read_only_array(self.edges)
        _set(self, "counts", counts)
        _set(self, "edges", edges)
        counted = counts.ndim == 1 and counts.size and counts.dtype.kind in "iu"
        if not counted or int(counts.min()) < 0:
            raise ValueError(
                f"`counts` of a histogram must be integers [bins] from 0 on; got {counts.dtype} "
                f"{list(counts.shape)} for `{self.tag}`"
            )
        if (
            edges.shape != (counts.size + 1,)
            or not np.isfinite(edges).all()
            or not (edges[1:] > edges[:-1]).all()
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
        name: Name of the artifact in the run, a relative path with `/` between its parts.
        path: Path of an immutable copy in the run's directory.
        lane: Index along the flattened vmapped axes; None for a run that is not vmapped.
        wall_time: Seconds since the Unix epoch.
    """

    step: int
    name: str
    path: Path
    lane: int | None = None
    wall_time: float = 0.0


Media: TypeAlias = Text | Video | Image | Histogram | Artifact
"""A record that is logged alone, by its own hook."""


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of a plugin's self-check on this machine, for `metriplex doctor`.

    Attributes:
        works: True if the plugin can work here, as far as a check without side effects shows.
        summary: One sentence about what was found: versions, drivers, the account in use.
        remedy: Instructions to fix a failure; empty if there is nothing to do.
    """

    works: bool
    summary: str
    remedy: str = ""


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery counts of one backend.

    Attributes:
        backend: The backend's name in this run.
        delivered: Records that the backend accepted without an error (a video or text counts as 1).
        undelivered: Records that were dropped from a full queue, failed, or were still queued when
            the run was closed.
        error: The last error that the backend raised, as `Type: message`; None without an error.
        suspended: True if the backend was suspended because it kept failing.
        journaled: Undelivered records that the run's journal keeps, so that `metriplex replay` can
            send them.
    """

    backend: str
    delivered: int
    undelivered: int
    error: str | None = None
    suspended: bool = False
    journaled: int = 0
