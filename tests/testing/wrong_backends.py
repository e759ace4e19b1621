"""Backends that pass the contract, and many that each break it in one way."""

from __future__ import annotations

import abc
import io
import itertools
import math
import os
import pickle
import posixpath
import subprocess
import sys
import threading
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image as Picture

from metriplex import ClosedError, hookimpl
from metriplex.testing import BackendContract, MemoryBackend, read_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from metriplex import Artifact, Histogram, Image, RunInfo, Scalar, Scalars, Text, Video
    from metriplex.testing import Stored


class Right:
    """A backend that stores scalars, hyper-parameters and texts in a file of the run."""

    def __init__(self) -> None:
        self.memory = MemoryBackend()
        self.state: dict[Any, Any] = {}

    @staticmethod
    def path(run: RunInfo) -> Path:
        return run.directory / "stored.pickle"

    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        """Return the records to store for a record; subclasses override it."""
        return [record]

    def change_hparams(self, hparams: dict[str, Any]) -> dict[str, Any]:
        return hparams

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        if self.path(run).exists():
            self.memory.runs[run.id] = pickle.loads(self.path(run).read_bytes())
        self.memory.open_run(run)

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        self.memory.log_hparams(run, self.change_hparams(dict(hparams)))

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        self.memory.log_scalars(run, [new for old in records for new in self.change(run, old)])

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        self.memory.log_text(run, text)

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        self.save(run)

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self.memory.close_run(run, status)
        self.save(run)

    def save(self, run: RunInfo) -> None:
        self.path(run).write_bytes(pickle.dumps(self.memory.runs[run.id]))

    def __reduce__(self) -> Any:
        raise TypeError("a backend need not be picklable")


class RightMedia(Right):
    """A backend that stores scalars and all media."""

    video_format = "gif"

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        self.memory.log_video(run, video)

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        self.memory.log_image(run, image)

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        self.memory.log_histogram(run, histogram)

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        self.memory.log_artifact(run, artifact)


class Contract(BackendContract):
    """The contract of one of these backends, which a subclass names."""

    backend: type[Right] = Right
    settle_secs = 0.1

    def make_backend(self) -> object:
        return self.backend()

    def read_back(self, run: RunInfo) -> Stored:
        return pickle.loads(self.backend.path(run).read_bytes())


# ---- scalars ------------------------------------------------------------------------------------


class _Values(Right, abc.ABC):
    @abc.abstractmethod
    def value(self, value: Any) -> Any:
        """Return the stored form of a value."""

    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        values = {tag: self.value(value) for tag, value in record.values.items()}
        return [replace(record, values={t: v for t, v in values.items() if v is not None})]


class Float32(_Values):
    def value(self, value: Any) -> Any:
        with np.errstate(over="ignore"):
            return float(np.float32(value)) if isinstance(value, float) else value


class SixDigits(_Values):
    def value(self, value: Any) -> Any:
        return float(f"{value:.6g}") if isinstance(value, float) else value


class FlushesDenormals(_Values):
    def value(self, value: Any) -> Any:
        return 0.0 if isinstance(value, float) and abs(value) < sys.float_info.min else value


class IntegersAsFloats(_Values):
    def value(self, value: Any) -> Any:
        return value if isinstance(value, bool) else float(value)


class DropsBools(_Values):
    def value(self, value: Any) -> Any:
        return None if isinstance(value, bool) else value


class DropsNan(_Values):
    def value(self, value: Any) -> Any:
        return None if value != value else value


class CutsInfinity(_Values):
    def value(self, value: Any) -> Any:
        return math.copysign(sys.float_info.max, value) if abs(value) == math.inf else value


class Reverses(Right):
    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        self.memory.log_scalars(run, records[::-1])


class Samples(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        self.state[run] = self.state.get(run, 0) + 1
        return [record] if self.state[run] <= 500 else []


class StepsOf32Bits(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, step=(record.step + 2**31) % 2**32 - 2**31)]


class StepsAsFloats(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, step=int(float(record.step)))]


class DropsLateSteps(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        newest = self.state[run] = max(self.state.get(run, 0), record.step)
        return [record] if record.step == newest else []


class OneRecordAStep(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        known = self.state.setdefault((run, record.lane), set())
        fresh = record.step not in known
        known.add(record.step)
        return [record] if fresh else []


class FillsIn(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        key = (run, record.lane, len(record.values) > 100)
        known = self.state.setdefault(key, {})
        known.update({tag: v for tag, v in record.values.items() if tag.startswith("tag_")})
        return [replace(record, values={**known, **record.values})]


class ForgetsLanes(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, lane=None)]


class LaneZeroIsNone(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, lane=record.lane or None)]


class ChangesWhatItIsGiven(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        copy = replace(record, values=dict(record.values))
        record.values["_step"] = record.step  # ty: ignore[invalid-assignment]
        return [copy]


# ---- tags ---------------------------------------------------------------------------------------


class _Tags(Right, abc.ABC):
    @abc.abstractmethod
    def tag(self, tag: str) -> str:
        """Return the stored form of a tag."""

    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, values={self.tag(tag): v}) for tag, v in record.values.items()]


class NormalizesUnicode(_Tags):
    def tag(self, tag: str) -> str:
        return unicodedata.normalize("NFC", tag)


class CutsTags(_Tags):
    def tag(self, tag: str) -> str:
        return tag[:1000]


class TagsAsPaths(_Tags):
    def tag(self, tag: str) -> str:
        return posixpath.normpath(tag)


class TagsMakeFiles(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        if "../x" in record.values:
            (run.directory / "../x").write_text("")
        return [record]


class LowerCase(_Tags):
    def tag(self, tag: str) -> str:
        return tag.lower()


class NoTagInATag(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        values = dict(record.values)
        if "a/b" in values:
            values.pop("a", None)
        return [replace(record, values=values)]


class AThousandTags(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, values=dict(itertools.islice(record.values.items(), 1000)))]


class EmptyTagBreaks(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        self.state[run] = self.state.get(run, False) or "" in record.values
        return [] if self.state[run] else [record]


# ---- hyper-parameters ---------------------------------------------------------------------------


class HparamsAsText(Right):
    def change_hparams(self, hparams: dict[str, Any]) -> dict[str, Any]:
        return {name: str(value) for name, value in hparams.items()}


class DropsInfiniteHparams(Right):
    def change_hparams(self, hparams: dict[str, Any]) -> dict[str, Any]:
        return {n: v for n, v in hparams.items() if not isinstance(v, float) or math.isfinite(v)}


class CutsHparams(Right):
    def change_hparams(self, hparams: dict[str, Any]) -> dict[str, Any]:
        return {n: v[:500] if isinstance(v, str) else v for n, v in hparams.items()}


class FirstHparamsOnly(Right):
    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        if not self.memory.runs[run.id].hparams:
            self.memory.log_hparams(run, hparams)


# ---- media --------------------------------------------------------------------------------------


class StripsTexts(RightMedia):
    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        self.memory.log_text(run, replace(text, text=text.text.strip()))


class TextsHaveNoLane(RightMedia):
    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        self.memory.log_text(run, replace(text, lane=None))


class NeedsFrames(RightMedia):
    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        assert video.frames is not None
        self.memory.log_video(run, video)


class _Frames(RightMedia, abc.ABC):
    @abc.abstractmethod
    def frames(self, frames: np.ndarray) -> np.ndarray:
        """Return the stored form of a clip."""

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        if video.frames is not None:
            video = replace(video, frames=self.frames(video.frames))
        self.memory.log_video(run, video)


class DropsTheLastFrame(_Frames):
    def frames(self, frames: np.ndarray) -> np.ndarray:
        return frames[:-1] if len(frames) > 1 else frames


class SwapsColours(_Frames):
    def frames(self, frames: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(frames[..., ::-1])


class EvenSizes(_Frames):
    def frames(self, frames: np.ndarray) -> np.ndarray:
        height, width = frames.shape[1:3]
        return frames[:, : height // 2 * 2, : width // 2 * 2]


class Jpeg(RightMedia):
    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        file = io.BytesIO()
        Picture.fromarray(image.pixels).save(file, "JPEG")
        self.memory.log_image(run, replace(image, pixels=read_picture(file.getvalue())))


class EvenEdges(RightMedia):
    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        ends = histogram.edges[0], histogram.edges[-1]
        edges = np.linspace(*ends, len(histogram.counts) + 1)
        self.memory.log_histogram(run, replace(histogram, edges=edges))


class OnlyFiles(RightMedia):
    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        if artifact.path.is_file():
            self.memory.log_artifact(run, artifact)


class Overwrites(RightMedia):
    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        found: Any = self.memory.runs[run.id].artifacts
        found.pop((artifact.lane, artifact.name), None)
        self.memory.log_artifact(run, artifact)


# ---- life ---------------------------------------------------------------------------------------


class NeedsRecords(Right):
    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        stored = self.memory.runs[run.id]
        if not (stored.scalars or stored.hparams or stored.texts):
            raise RuntimeError("nothing was logged")
        self.memory.close_run(run, status)
        self.save(run)


class AlwaysFinished(Right):
    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self.memory.close_run(run, "finished")
        self.save(run)


class ClosesOnce(Right):
    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        if self.state.setdefault(run, 0):
            raise ClosedError("closed already")
        self.state[run] = 1
        self.memory.close_run(run, status)
        self.save(run)


class LastStatusCounts(Right):
    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self.memory.runs[run.id] = replace(self.memory.runs[run.id], status=status)
        self.memory.close_run(run, status)
        self.save(run)


class LogsAfterClose(Right):
    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        if self.memory.runs[run.id].status is not None:
            return
        self.memory.log_scalars(run, records)


class LazyFlush(Right):
    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        Right.open_run(self, run)
        self.save(run)

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        pass


class OneRunAtATime(Right):
    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        newest = self.state.setdefault("run", run)
        closed = self.memory.runs[newest.id].status is not None
        self.memory.log_scalars(run if closed else newest, records)


class GlobalState(Right):
    shared: MemoryBackend | None = None

    def __init__(self) -> None:
        super().__init__()
        type(self).shared = self.memory

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        assert self.shared is not None
        self.shared.log_scalars(run, records)


class ByName(Right):
    @staticmethod
    def path(run: RunInfo) -> Path:
        return run.directory.parent.parent / f"{run.name}.pickle"


class IgnoresResumeStep(Right):
    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        if self.path(run).exists():
            self.memory.runs[run.id] = pickle.loads(self.path(run).read_bytes())
        self.memory.open_run(replace(run, resume_step=None))


class BeginsAnew(Right):
    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self.memory.open_run(run)


class LeavesThreads(Right):
    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        threading.Thread(target=threading.Event().wait, args=(9.0,), daemon=True).start()
        self.memory.close_run(run, status)
        self.save(run)


class LeavesFiles(Right):
    left: ClassVar[list[int]] = []

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self.left.append(os.open(os.devnull, os.O_RDONLY))
        self.memory.close_run(run, status)
        self.save(run)


class LeavesChildren(Right):
    left: ClassVar[list[Any]] = []

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self.left.append(subprocess.Popen(["sleep", "9"]))
        self.memory.close_run(run, status)
        self.save(run)


# ---- processes ----------------------------------------------------------------------------------


class Prints(Right):
    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        print("hello from the tracking community")
        self.memory.open_run(run)


class SetsVariables(Right):
    def __init__(self) -> None:
        super().__init__()
        os.environ["SOME_SERVICE"] = "here"


class ExitsBadly(Right):
    @hookimpl
    def flush(self, run: RunInfo) -> None:
        self.save(run)
        import atexit

        atexit.register(os._exit, 3)
