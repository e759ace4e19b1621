"""A backend that keeps what it is told in memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex.errors import ClosedError
from metriplex.plugins.hookspecs import hookimpl
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
    """Keeps every record of every run, for tests of programs that log.

    It has no hook `flush`, as nothing of it survives the process.

    Attributes:
        runs: The id of a run to what is stored of it.

    Args:
        runs: The `runs` of another backend, to go on with them; None for none.
    """

    video_format = "gif"

    def __init__(self, runs: dict[str, Stored] | None = None) -> None:
        self.runs: dict[str, Stored] = {} if runs is None else runs
        self._open: set[str] = set()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Makes an empty run, or goes on with one that is there."""
        stored = self.runs.setdefault(run.id, Stored())
        if run.resume_step is not None:
            stored = _before(stored, run.resume_step)
        self.runs[run.id] = dataclasses.replace(stored, status=None)
        self._open.add(run.id)

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Keeps hyper-parameters."""
        stored = self._find(run)
        self.runs[run.id] = dataclasses.replace(stored, hparams={**stored.hparams, **hparams})

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Keeps scalars."""
        stored = self._find(run)
        for record in records:
            for tag, value in record.values.items():
                _append(stored.scalars, record.lane, tag, (record.step, value))

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Keeps a text."""
        _append(self._find(run).texts, text.lane, text.tag, (text.step, text.text))

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        """Keeps a clip, encoded."""
        stored, clip = self._find(run), encode_video(video, self.video_format)
        _append(stored.videos, video.lane, video.tag, (video.step, clip.data))

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        """Keeps a copy of a picture."""
        pixels = np.array(image.pixels)
        _append(self._find(run).images, image.lane, image.tag, (image.step, pixels))

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        """Keeps a copy of a histogram."""
        numbers = np.array(histogram.counts), np.array(histogram.edges)
        stored = self._find(run)
        _append(stored.histograms, histogram.lane, histogram.tag, (histogram.step, *numbers))

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Keeps the contents of files."""
        stored = self._find(run)
        for path in sorted(artifact.path.rglob("*")) if artifact.path.is_dir() else [artifact.path]:
            inner = path.relative_to(artifact.path).as_posix()
            name = artifact.name if inner == "." else f"{artifact.name}/{inner}"
            if path.is_file():
                point = (artifact.step, path.read_bytes())
                _append(stored.artifacts, artifact.lane, name, point)

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Keeps the status; a second call does nothing."""
        if run.id in self._open:
            self.runs[run.id] = dataclasses.replace(self.runs[run.id], status=status)
            self._open.remove(run.id)

    def _find(self, run: RunInfo) -> Stored:
        if run.id not in self._open:
            raise ClosedError(f"run `{run.name}` is not open: log after `open_run`, before `close`")
        return self.runs[run.id]


_SERIES = ("scalars", "texts", "videos", "images", "histograms", "artifacts")


def _before(stored: Stored, step: int) -> Stored:
    """What was stored without what is superseded."""
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
