"""Backends that pass the contract, and many that each break it in one way."""

from __future__ import annotations

import abc
import errno
import io
import itertools
import math
import os
import pickle
import posixpath
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unicodedata
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from PIL import Image as Picture

from metriplex import ClosedError, TransientError, hookimpl, lane_name
from metriplex.testing import BackendContract, MemoryBackend, read_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from metriplex import Artifact, Histogram, Image, Lane, RunInfo, Scalar, Scalars, Text, Video
    from metriplex.testing import Stored


_FLUSHED = ("scalars", "wall_times", "iterations")
"""Fields of `Stored` that leave the memory once they are in the file."""


IN_CHILD = len(sys.argv) == 1
"""True in the processes that tests of the contract start."""


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
        self.begin(run)

    def begin(self, run: RunInfo) -> None:
        if self.path(run).exists():
            self.memory.runs[run.id] = pickle.loads(self.path(run).read_bytes())
        self.memory.open_run(run)
        self.write(run, self.memory.runs[run.id])

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

    def stored(self, run: RunInfo) -> Stored:
        """Return what the file and the memory hold."""
        stored = self.memory.runs[run.id]
        if not self.path(run).exists():
            return stored
        file = pickle.loads(self.path(run).read_bytes())
        joined: dict[str, Any] = {}
        for name in _FLUSHED:
            old, new = getattr(file, name), getattr(stored, name)
            joined[name] = {key: [*old.get(key, ()), *new.get(key, ())] for key in {**old, **new}}
        return replace(stored, **joined)

    def save(self, run: RunInfo) -> None:
        self.write(run, self.stored(run))

    def write(self, run: RunInfo, stored: Stored) -> None:
        """Write the file, all of it or nothing."""
        file = self.path(run).with_suffix(".new")
        file.write_bytes(pickle.dumps(stored))
        file.replace(self.path(run))
        empty: Any = {name: {} for name in _FLUSHED}
        self.memory.runs[run.id] = replace(stored, **empty)

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


class RightBesideAFile(Right):
    """A correct backend whose runs share a file beside their directories, made late."""

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        path = run.directory.parent / "metrics.sqlite"
        try:
            with closing(sqlite3.connect(path)) as shared, shared:
                shared.execute("CREATE TABLE IF NOT EXISTS runs (id)")
                shared.execute("INSERT INTO runs VALUES (?)", (run.id,))
        except sqlite3.OperationalError as error:
            raise TransientError(f"`{path}` can't be written: {error}") from error
        Right.close_run(self, run, status)


class RightOnce(Right):
    """A correct backend that stores at once, and knows again what an earlier process stored."""

    def begin(self, run: RunInfo) -> None:
        super().begin(run)
        stored: Stored = pickle.loads(self.path(run).read_bytes())
        self.state[run.id] = {
            (lane, step, wall_time)
            for (lane, _), points in stored.wall_times.items()
            for step, wall_time in points
        }

    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        known = (record.lane, record.step, record.wall_time) in self.state[run.id]
        return [] if known else [record]

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        Right.log_scalars(self, run, records)
        self.save(run)


class ForgetsWhatIsStored(RightOnce):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [record]


class Contract(BackendContract):
    """The contract of one of these backends, which a subclass names."""

    backend: type[Right] = Right
    settle_secs = 0.1

    @pytest.fixture(autouse=True)
    def _restores(self) -> Iterator[None]:
        """Restore the state of the process that some of these backends change."""
        directory, variables, mask = Path.cwd(), dict(os.environ), os.umask(0o22)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
        with np.errstate():
            yield
        os.umask(mask)
        os.chdir(directory)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]

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


class LosesTheSignOfZero(_Values):
    def value(self, value: Any) -> Any:
        return 0.0 if isinstance(value, float) and value == 0 else value


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


class OwnTimes(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, wall_time=time.time())]


class OwnTimesOfTexts(Right):
    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        self.memory.log_text(run, replace(text, wall_time=time.time()))


class NoIterations(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        return [replace(record, iteration=None)]


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


class _Lanes(Right, abc.ABC):
    @abc.abstractmethod
    def lane(self, index: int, lane: Lane) -> Lane:
        """Return the stored form of a lane."""

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        lanes = tuple(self.lane(index, lane) for index, lane in enumerate(run.lanes))
        self.begin(replace(run, lanes=lanes))


class NumbersLanes(_Lanes):
    def lane(self, index: int, lane: Lane) -> Lane:
        return replace(lane, name=lane_name(index))


class HparamsOfRunsOnly(_Lanes):
    def lane(self, index: int, lane: Lane) -> Lane:
        return replace(lane, hparams={})


class ChangesWhatItIsGiven(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        copy = replace(record)
        object.__setattr__(record, "values", {**record.values, "_step": record.step})
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
        if run not in self.state and self.memory.runs[run.id].hparams:
            return  # an earlier process had them
        self.state[run] = True
        self.memory.log_hparams(run, hparams)


class HparamsOfOneCall(Right):
    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        if not self.state.setdefault(run, False):
            self.memory.log_hparams(run, hparams)
        self.state[run] = True


class HparamsOfTheLastCall(Right):
    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        if self.state.setdefault(run, False):
            self.memory.runs[run.id] = replace(self.memory.runs[run.id], hparams={})
        self.state[run] = True
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
        stored = self.stored(run)
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
        self.begin(run)

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


class ByNameInMemory(Right):
    """The runs of one object are told apart by their names."""

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        first = self.state.setdefault(run.name, run)
        closed = self.memory.runs[first.id].status is not None
        self.memory.log_scalars(run if closed else first, records)


class KeepsEverything(Right):
    def change(self, run: RunInfo, record: Scalars) -> Iterable[Scalars]:
        self.state.setdefault(run, []).append(record)
        return [record]


class IgnoresResumeStep(Right):
    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self.begin(replace(run, resume_step=None))


class BeginsAnew(Right):
    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self.path(run).unlink(missing_ok=True)
        self.begin(run)


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


class KeepsAConnection(Right):
    """Its object holds a connection, which would be closed with the object."""

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self.begin(run)
        self.state[run] = sqlite3.connect(run.directory / "service.db")
        self.state[run].execute("PRAGMA user_version")


class LeavesChildren(Right):
    left: ClassVar[list[Any]] = []

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self.left.append(subprocess.Popen(["sleep", "9"]))
        self.memory.close_run(run, status)
        self.save(run)


# ---- faults -------------------------------------------------------------------------------------


class WritesOneByOne(Right):
    """A call that fails after some of its records has stored them, and stores them again."""

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        for part in filter(None, (records[:1], records[1:])):
            self.memory.log_scalars(run, part)
            self.save(run)


class AppendsAgain(Right):
    """A write that fails halfway is begun again where it ended."""

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        self.memory.log_scalars(run, ())
        self.state.setdefault(run, []).extend(records)

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        waiting = self.state.setdefault(run, [])
        for record in waiting:
            self.memory.log_scalars(run, [record])
            if record is waiting[0] or record is waiting[-1]:
                self.save(run)
        waiting.clear()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        if self.memory.runs[run.id].status is None:
            self.flush(run)
        Right.close_run(self, run, status)


class SwallowsErrors(Right):
    """An error of the file is ignored, and what waited for it is forgotten."""

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        try:
            self.save(run)
        except OSError:
            self.forget(run)

    def forget(self, run: RunInfo) -> None:
        empty: Any = {name: {} for name in _FLUSHED}
        self.memory.runs[run.id] = replace(self.memory.runs[run.id], **empty)


class SwallowsFullDescriptors(SwallowsErrors):
    @hookimpl
    def flush(self, run: RunInfo) -> None:
        try:
            self.save(run)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            self.forget(run)


class RaisesItsOwnErrors(Right):
    @hookimpl
    def flush(self, run: RunInfo) -> None:
        try:
            self.save(run)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            raise RuntimeError("the service is not available") from error


# ---- processes ----------------------------------------------------------------------------------


class Prints(Right):
    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        print("hello from the tracking community")
        self.begin(run)


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

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        import atexit

        Right.close_run(self, run, status)
        atexit.unregister(os._exit)


class _AtOpening(Right, abc.ABC):
    """Change the state of the process while a run is open."""

    @abc.abstractmethod
    def before(self, run: RunInfo) -> None:
        """Change something."""

    def after(self) -> None:
        """Restore it."""

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self.before(run)
        self.begin(run)

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        Right.close_run(self, run, status)
        self.after()


class ChangesDirectory(_AtOpening):
    def before(self, run: RunInfo) -> None:
        self.state["directory"] = Path.cwd()
        os.chdir(run.directory)

    def after(self) -> None:
        os.chdir(self.state["directory"])


class SetsVariablesForAWhile(_AtOpening):
    def before(self, run: RunInfo) -> None:
        os.environ["SOME_SERVICE"] = run.name

    def after(self) -> None:
        os.environ.pop("SOME_SERVICE", None)


class SetsHandlers(Right):
    def __init__(self) -> None:
        super().__init__()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class SetsErrors(Right):
    def __init__(self) -> None:
        super().__init__()
        np.seterr(invalid="ignore")


class SetsErrorsOfItsThread(_AtOpening):
    def before(self, run: RunInfo) -> None:
        np.seterr(invalid="ignore")


class Seeds(_AtOpening):
    def before(self, run: RunInfo) -> None:
        random.seed(run.id)


class SeedsNumpy(Right):
    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        np.random.seed(0)  # noqa: NPY002 - a library's habit
        self.memory.log_text(run, text)


class SetsTheMask(_AtOpening):
    def before(self, run: RunInfo) -> None:
        os.umask(0o77)


class Complains(_AtOpening):
    def before(self, run: RunInfo) -> None:
        print("service: view this run at http://127.0.0.1", file=sys.stderr)


class Warns(_AtOpening):
    def before(self, run: RunInfo) -> None:
        if IN_CHILD:
            warnings.warn("this server is old", stacklevel=1)


class UsesJax(_AtOpening):
    def before(self, run: RunInfo) -> None:
        state, variables = np.random.get_state(), dict(os.environ)  # noqa: NPY002
        import jax

        np.random.set_state(state)  # noqa: NPY002
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        self.state["jax"] = jax


class EndsLate(_AtOpening):
    def before(self, run: RunInfo) -> None:
        import atexit

        if IN_CHILD:
            atexit.register(time.sleep, 4.0)
