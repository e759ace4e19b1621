"""Display times of the frames of a clip, in the whole ticks in which a file format counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from metriplex.errors import VideoError


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """Select the frames of a clip that a format shows, and their durations in ticks."""

    fps: Fraction
    ticks: int  # a second: 100 for GIF, 1000 for WebP
    shortest: int  # ticks; browsers show a frame of a shorter duration for 100 ms
    longest: int  # ticks that the format can store

    def __post_init__(self) -> None:
        """Raise `VideoError` unless the rate is positive."""
        if not self.fps > 0:
            raise VideoError(f"`fps` of a clip must be positive; got {float(self.fps)}")

    def shows(self, index: int) -> bool:
        """Return True if frame `index` is shown: all frames, unless browsers can't play the rate.

        A faster clip shows the frames that are current at `0, d, 2 d, ...`, where `d` is the
        shortest duration, so the clip keeps its length.
        """
        stride = self._stride
        return stride <= 1 or math.floor(math.ceil(index / stride) * stride) == index

    def durations(self, num_frames: int) -> list[int]:
        """Return the duration of each frame that `shows` selects; rounding errors don't add up.

        `num_frames` is the number of frames of the whole clip. The sum of the durations is the
        clip's length rounded to a tick, if the format's shortest and longest durations allow it.
        """
        shown = [index for index in range(num_frames) if self.shows(index)]
        if self._stride > 1:
            starts = [self.shortest * order for order in range(len(shown))]
        else:
            starts = [self._tick(index) for index in shown]
        ends = [*starts[1:], self._tick(num_frames)]
        pairs = zip(starts, ends, strict=True)
        return [min(max(end - start, self.shortest), self.longest) for start, end in pairs]

    @property
    def _stride(self) -> Fraction:
        """Return the number of frames of the clip that fall into the shortest duration."""
        return self.fps * self.shortest / self.ticks

    def _tick(self, index: int) -> int:
        return round(self.ticks * index / self.fps)


def rate(fps: float) -> Fraction:
    """Return a frame rate as a ratio of small integers, for encoders: 29.97 is 2997/100.

    The denominator is at most 1,000,000; the result for a rate that isn't finite is 0.
    """
    return Fraction(fps).limit_denominator(1_000_000) if math.isfinite(fps) else Fraction(0)
