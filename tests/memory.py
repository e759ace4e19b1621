"""A backend that keeps records and calls as they came, and a run that logs to it.

`metriplex.testing.MemoryBackend` keeps points by tag, as a service does: neither records nor calls.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex import (
    Artifact,
    Histogram,
    Image,
    MetricsCallback,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    Video,
    hookimpl,
)
from metriplex.bridge import receiver

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    import pytest

    from metriplex.bridge.decode import Block


@final
class Memory:
    """Records every hook call of one run, in order.

    Args:
        video_format: The format in which it is given videos.

    Attributes:
        calls: The names of the hooks, as they were called.
        records: All scalars.
        arrived: Set as soon as there is a first record.
    """

    def __init__(self, video_format: str = "mp4") -> None:
        self.video_format = video_format
        self.calls: list[str] = []
        self.records: list[Scalars] = []
        self.hparams: list[Mapping[str, Scalar | str]] = []
        self.texts: list[Text] = []
        self.videos: list[Video] = []
        self.media: list[Image | Histogram | Artifact] = []
        self.status: str | None = None
        self.arrived = threading.Event()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self.calls.append("open_run")

    @hookimpl
    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        self.calls.append("log_hparams")
        self.hparams.append(hparams)

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self.calls.append("log_scalars")
        self.records += records
        self.arrived.set()

    @hookimpl
    def log_text(self, text: Text) -> None:
        self.calls.append("log_text")
        self.texts.append(text)

    @hookimpl
    def log_video(self, video: Video) -> None:
        self.calls.append("log_video")
        self.videos.append(video)

    @hookimpl
    def log_image(self, image: Image) -> None:
        self.calls.append("log_image")
        self.media.append(image)

    @hookimpl
    def log_histogram(self, histogram: Histogram) -> None:
        self.calls.append("log_histogram")
        self.media.append(histogram)

    @hookimpl
    def log_artifact(self, artifact: Artifact) -> None:
        self.calls.append("log_artifact")
        self.media.append(artifact)

    @hookimpl
    def flush(self) -> None:
        self.calls.append("flush")

    @hookimpl
    def close_run(self, status: str) -> None:
        self.calls.append("close_run")
        self.status = status

    @property
    def lanes(self) -> list[int | None]:
        """The lanes that have logged, each once, in ascending order (no lane comes first)."""
        found = {record.lane for record in self.records}
        return sorted(found, key=lambda lane: -1 if lane is None else lane)

    def values(self, tag: str, lane: int | None = None) -> list[Scalar]:
        """Return the values of a lane's tag, in order."""
        return [
            record.values[tag]
            for record in self.records
            if record.lane == lane and tag in record.values
        ]

    def steps(self, lane: int | None = None) -> list[int]:
        """The steps at which a lane has logged, in order."""
        return [record.step for record in self.records if record.lane == lane]


def plain(records: Iterable[Scalars]) -> list[tuple[int | None, int, int | None, dict[str, Any]]]:
    """Return the records of a program lane by lane, without values of the clock."""
    by_lane = sorted(records, key=lambda record: -1 if record.lane is None else record.lane)
    return [
        (
            record.lane,
            record.step,
            record.iteration,
            {tag: value for tag, value in record.values.items() if not tag.startswith("time/")},
        )
        for record in by_lane
    ]


@contextmanager
def logging_to_memory(
    log_dir: object, memory: Memory | None = None, **options: Any
) -> Generator[tuple[MetricsCallback, Memory]]:
    """An open callback and the backend that it logs to; closed when the block ends."""
    memory = memory or Memory()
    with MetricsCallback("run", log_dir=str(log_dir), backends=memory, **options) as metrics:
        yield metrics, memory


def host_calls(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A list that grows by the block of rows of every host call, in any order of arrival."""
    blocks: list[np.ndarray] = []
    deliver = receiver._deliver

    def count(fresh: list[Block]) -> None:
        for block in fresh:
            flat = np.frombuffer(np.asarray(block.rows), np.uint32)
            blocks.append(flat.reshape(block.shape or np.shape(block.rows)))
        deliver(fresh)

    monkeypatch.setattr(receiver, "_deliver", count)
    return blocks
