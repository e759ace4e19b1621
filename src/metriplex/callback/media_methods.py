"""The methods of a callback that log media: text, clips, pictures, histograms, files."""

from __future__ import annotations

import abc
import contextlib
import math
import sys
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from metriplex.bridge.strictness import under_own_rules
from metriplex.callback.base import CallbackBase
from metriplex.cluster.pending import copy
from metriplex.cluster.run import ClusterRun
from metriplex.errors import LoggingError
from metriplex.files import check_inside
from metriplex.records import Artifact, Histogram, Image, Text, Video
from metriplex.validation import check_count, check_step, check_tag

if TYPE_CHECKING:
    import os
    from collections.abc import Generator

    from numpy.typing import ArrayLike

    from metriplex.run.run import Run

ARTIFACTS = "artifacts"
"""The folder of artifacts in a run's directory."""


class MediaMethods(CallbackBase, abc.ABC):
    """Methods that log one record of media each, outside of compiled functions."""

    __slots__ = ()

    def log_text(self, tag: str, text: str, *, step: int = 0) -> None:
        """Log a text, outside of compiled functions.

        Args:
            tag: The tag.
            text: The text; Markdown, where the backend shows it.
            step: Environment steps taken so far.

        Raises:
            LoggingError: `tag`, `text` or `step` is not usable.
            ClosedError: The run is closed.
        """
        if not isinstance(text, str):
            raise LoggingError(f"`text` must be a string; got {text!r}: pass `str(text)`")
        record = Text(check_step(step), check_tag(tag), text, wall_time=time.time())
        self._host_run("log_text").run.log_media(record)

    @under_own_rules
    def log_video(self, tag: str, frames: np.ndarray, *, fps: float, step: int = 0) -> None:
        """Log a clip, outside of compiled functions.

        Args:
            tag: The tag.
            frames: uint8 `[time, height, width, 3]`, RGB; not copied, so it must not change later.
            fps: Frames a second.
            step: Environment steps taken so far.

        Raises:
            LoggingError: `tag`, `frames`, `fps` or `step` is not usable.
            ClosedError: The run is closed.
        """
        run = self._host_run("log_video").run
        number, now = check_step(step), time.time()
        with _explained("a video"):
            video = Video(number, check_tag(tag), np.asarray(frames), fps, wall_time=now)
        run.log_media(video)

    @under_own_rules
    def log_image(self, tag: str, pixels: ArrayLike, *, step: int = 0) -> None:
        """Log a picture, outside of compiled functions.

        Args:
            tag: The tag.
            pixels: uint8 `[height, width, 3]`, RGB; a copy is made.
            step: Environment steps taken so far.

        Raises:
            LoggingError: `tag`, `pixels` or `step` is not usable.
            ClosedError: The run is closed.
        """
        run = self._host_run("log_image").run
        number, now = check_step(step), time.time()
        with _explained("an image"):
            image = Image(number, check_tag(tag), np.array(pixels), wall_time=now)
        run.log_media(image)

    @under_own_rules
    def log_histogram(
        self, tag: str, values: ArrayLike, *, step: int = 0, bins: int | ArrayLike = 64
    ) -> None:
        """Log a histogram of values, outside of compiled functions.

        Args:
            tag: The tag.
            values: Real numbers, of any shape; values that are not finite are left out.
            step: Environment steps taken so far.
            bins: Number of bins of equal width between the least and the greatest value, or the
                edges, `[bins + 1]`, as for `numpy.histogram`.

        Raises:
            LoggingError: `tag`, `values`, `bins` or `step` is not usable.
            ClosedError: The run is closed.
        """
        run = self._host_run("log_histogram").run
        number, now = check_step(step), time.time()
        with _explained("a histogram"):
            numbers = np.asarray(values).ravel().astype(np.float64)
            numbers = numbers[np.isfinite(numbers)]
            if np.ndim(bins) == 0:
                edges = _equal_bins(numbers, check_count("bins", bins, least=1))
            else:
                edges = np.asarray(bins, np.float64)
            counts = np.histogram(numbers, edges)[0].astype(np.int64)
            histogram = Histogram(number, check_tag(tag), counts, edges, wall_time=now)
        run.log_media(histogram)

    def log_artifact(
        self, path: str | os.PathLike[str], *, name: str | None = None, step: int = 0
    ) -> None:
        """Keep a file or a directory with the run, outside of compiled functions.

        The file is copied into the run's directory before this returns, so the original may change;
        backends read the copy later.

        Args:
            path: The file or directory.
            name: The artifact's name in the run, a relative path; None for the last part of `path`.
            step: Environment steps taken so far.

        Raises:
            LoggingError: There is no such file, `name` would lead out of the run, or an artifact
                of that name was logged at this step already.
            OSError: The file can't be read, or the disk is full.
            ClosedError: The run is closed.
        """
        run = self._host_run("log_artifact").run
        number, source = check_step(step), Path(path)
        inner = _inner_name(source.name if name is None else name)
        if not source.exists():
            raise LoggingError(
                f"there is no file or directory {str(source)!r} to log as an artifact: write it "
                f"first, or mend the path"
            )
        now = time.time()

        def log(run: Run, source: Path) -> None:
            target = run.info.directory / ARTIFACTS / f"step_{number}" / inner
            if target.exists():
                raise LoggingError(
                    f"an artifact `{inner}` was logged at step {number} already: give another "
                    f"`name`"
                )
            check_inside(target, run.info.directory)
            copy(source, target)
            run.log_media(Artifact(number, inner, target, wall_time=now))

        if isinstance(run, ClusterRun):
            run.log_file(source, log)
        else:
            log(run, source)


@contextlib.contextmanager
def _explained(record: str) -> Generator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise LoggingError(f"{record} can't be logged: {error}") from error


def _equal_bins(values: np.ndarray, count: int) -> np.ndarray:
    """Return edges of equal bins that hold all values, also if they hardly differ or are huge."""
    low, high = (values.min().item(), values.max().item()) if values.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    room = 2 * count * math.ulp(max(abs(low), abs(high)))
    if high / 2 - low / 2 < room:  # halves, as the difference may overflow
        largest = sys.float_info.max
        low, high = max(low - room, -largest), min(high + room, largest)
    scale = 4.0 if max(abs(low), abs(high)) > sys.float_info.max / 4 else 1.0  # no overflow
    edges = scale * np.linspace(low / scale, high / scale, count + 1)
    edges[0], edges[-1] = low, high
    return edges


def _inner_name(name: str) -> str:
    """Return `name` as a relative path that doesn't lead out of its directory."""
    plain = PurePosixPath(name)
    leads_out = plain.is_absolute() or ".." in plain.parts
    if not plain.parts or leads_out or "\\" in name or "\0" in name:
        raise LoggingError(
            f"the name of an artifact must be a relative path with `/` between its parts; got "
            f"{name!r}: pass for example `name='checkpoints/policy.npz'`"
        )
    return str(plain)
