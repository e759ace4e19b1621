"""When each frame of a clip is shown, in the whole ticks that a file format counts in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from metriplex.errors import VideoError


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """Which frames of a clip a format shows, and for how many ticks.

    Attributes:
        fps: Frames a second of the clip.
        ticks: Ticks a second of the format: 100 for GIF, 1000 for WebP.
        shortest: The fewest ticks for which browsers show a frame as long as they are told to;
            below, they show it for 100 ms.
        longest: The most ticks that the format can count.
    """

    fps: Fraction
    ticks: int
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        """Refuses rates at which nothing can be played."""
        if not self.fps > 0:
            raise VideoError(f"`fps` of a clip must be positive; got {float(self.fps)}")

    def shows(self, index: int) -> bool:
        """Whether frame `index` is shown: every one, unless the rate is above what browsers play.

        Of a faster clip, the frames are shown that are current at `0, d, 2 d, ...`, where `d` is
        the shortest duration, so that it takes as long as it should.
        """
        stride = self._stride
        return stride <= 1 or math.floor(math.ceil(index / stride) * stride) == index

    def durations(self, num_frames: int) -> list[int]:
        """How long each frame is shown that `shows` selects, in ticks; roundings don't add up.

        Args:
            num_frames: Frames of the whole clip, at least 1.

        Returns:
            One duration a shown frame. Their sum is the clip's length rounded to a tick, if the
            format's shortest and longest durations allow it.
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
        """Frames of the clip in the shortest duration that a frame can be shown."""
        return self.fps * self.shortest / self.ticks

    def _tick(self, index: int) -> int:
        return round(self.ticks * index / self.fps)


def rate(fps: float) -> Fraction:
    """A frame rate as encoders take it, a ratio of small integers: 29.97 is 2997/100.

    Args:
        fps: Frames a second.

    Returns:
        The closest fraction with a denominator up to 1,000,000; 0 for what isn't finite.
    """
    return Fraction(fps).limit_denominator(1_000_000) if math.isfinite(fps) else Fraction(0)
