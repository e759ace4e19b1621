"""A backend that keeps every record in memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex.plugins.hookspecs import hookimpl
from metriplex.plugins.open_runs import OpenRuns
from metriplex.testing.stored import Stored
from metriplex.video.encode.clip import encode_video

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from metriplex.records import (
        Artifact,
        Histogram,
        Image,
        RunInfo,
        Scalar,
        Scalars,
        Text,
        Video,
    )


@final
class MemoryBackend:
    """Keep every record of every run in memory, for tests of programs that log.

    There is no hook `flush`, since no record survives the process.

    Attributes:
        runs: The id of a run to its stored records.

    Args:
        runs: The `runs` of another backend, to continue them; None for none.
    """

    video_format = "gif"

    def __init__(self, runs: dict[str, Stored] | None = None) -> None:
        self.runs: dict[str, Stored] = {} if runs is None else runs
        self._open = OpenRuns[None]()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self._open.open(run, self._begin)

    def _begin(self, run: RunInfo) -> None:
        stored = self.runs.get(run.id, Stored())
        if run.resume_step is not None:
            stored = _before(stored, run.resume_step)
        lanes = {**stored.lanes, **dict(enumerate(run.lanes))}
        self.runs[run.id] = dataclasses.replace(stored, lanes=lanes, status=None)

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        stored = self._find(run)
        self.runs[run.id] = dataclasses.replace(stored, hparams={**stored.hparams, **hparams})

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        stored = self._find(run)
        for record in records:
            for tag, value in record.values.items():
                _append(stored.scalars, record.lane, tag, (record.step, value))
                _append(stored.wall_times, record.lane, tag, (record.step, record.wall_time))
                if record.iteration is not None:
                    _append(stored.iterations, record.lane, tag, (record.step, record.iteration))

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        _append(self._find(run).texts, text.lane, text.tag, (text.step, text.text))
        self._keep_time(run, text)

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        """Keep a clip as encoded bytes."""
        stored, clip = self._find(run), encode_video(video, self.video_format)
        _append(stored.videos, video.lane, video.tag, (video.step, clip.data))
        self._keep_time(run, video)

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        pixels = np.array(image.pixels)
        _append(self._find(run).images, image.lane, image.tag, (image.step, pixels))
        self._keep_time(run, image)

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        numbers = np.array(histogram.counts), np.array(histogram.edges)
        stored = self._find(run)
        _append(stored.histograms, histogram.lane, histogram.tag, (histogram.step, *numbers))
        self._keep_time(run, histogram)

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Keep the contents of files."""
        stored = self._find(run)
        for path in sorted(artifact.path.rglob("*")) if artifact.path.is_dir() else [artifact.path]:
            inner = path.relative_to(artifact.path).as_posix()
            name = artifact.name if inner == "." else f"{artifact.name}/{inner}"
            if path.is_file():
                point = (artifact.step, path.read_bytes())
                _append(stored.artifacts, artifact.lane, name, point)

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self._open.close(run, status, lambda _: self._end(run, status))

    def _end(self, run: RunInfo, status: str) -> None:
        self.runs[run.id] = dataclasses.replace(self.runs[run.id], status=status)

    def _keep_time(self, run: RunInfo, record: Text | Video | Image | Histogram) -> None:
        point = (record.step, record.wall_time)
        _append(self._find(run).wall_times, record.lane, record.tag, point)

    def _find(self, run: RunInfo) -> Stored:
        self._open.find(run)
        return self.runs[run.id]


_SERIES = (
    *("scalars", "wall_times", "iterations"),
    *("texts", "videos", "images", "histograms", "artifacts"),
)


def _before(stored: Stored, step: int) -> Stored:
    """Return `stored` without the records at `step` and later."""
    kept = {
        name: {
            series: points
            for series, everything in getattr(stored, name).items()
            if (points := [point for point in everything if point[0] < step])
        }
        for name in _SERIES
    }
    return dataclasses.replace(stored, **kept)


def _append(kept: Any, lane: int | None, tag: str, point: Iterable[Any]) -> None:
    kept.setdefault((lane, tag), []).append(point)
