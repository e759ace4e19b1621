"""The hooks of the MLflow backend."""

from __future__ import annotations

import importlib.util
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence  # noqa: TC003 - hook signatures are public
from typing import TYPE_CHECKING, TypeVar, final
from urllib.parse import urlsplit

import mlflow
from mlflow.client import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

from metriplex import (
    Artifact,
    ClosedError,
    ConfigurationError,
    Diagnosis,
    Histogram,
    Image,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    TransientError,
    Video,
    hookimpl,
)
from metriplex_mlflow import files
from metriplex_mlflow.runs import MlflowRuns
from metriplex_mlflow.service import calling
from metriplex_mlflow.writer import check

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_STATUSES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
Shown = TypeVar("Shown", Text, Video, Image, Histogram)

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@final
class MlflowBackend:
    """Logs runs to an MLflow tracking server.

    A lane of a vmapped axis is a run of its own (`seed_000`, ..., or as it was named) below the
    run. Metrics wait in
    memory for `flush`, or until a thousand of them fill a request. Nothing global of MLflow is
    touched: no active run, no tracking URI.

    Args:
        tracking_uri: The server, such as `"http://127.0.0.1:5000"`. None: what MLflow is set to,
            by `MLFLOW_TRACKING_URI` for example.
        experiment: Name of the experiment, which is created if there is none. None: the
            environment variable `MLFLOW_EXPERIMENT_NAME`, else `"metriplex"`.
        tags: Tags of the run and of its lanes.
        flush_secs: The longest time in seconds that metrics wait in memory.
        timeout_secs: Seconds to wait for an answer of the server.

    Raises:
        ConfigurationError: An argument is not usable.
    """

    video_format = "mp4"

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        flush_secs: float = 5.0,
        timeout_secs: float = 10.0,
    ) -> None:
        for name, seconds in (("flush_secs", flush_secs), ("timeout_secs", timeout_secs)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ConfigurationError(
                    f"`{name}` must be a positive number of seconds; got {seconds!r}"
                )
        self.tags = dict(tags or {})
        for key, value in self.tags.items():
            if not isinstance(key, str) or not key or not isinstance(value, str):
                raise ConfigurationError(
                    f"`tags` must be strings by name; got {key!r}: {value!r}: pass `str(value)`"
                )
        self.tracking_uri = _check_uri(tracking_uri or mlflow.get_tracking_uri())
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "metriplex"
        self.flush_secs = float(flush_secs)
        self.timeout_secs = float(timeout_secs)
        self._lock = threading.Lock()
        self._open: dict[str, MlflowRuns] = {}
        self._closed: set[str] = set()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Creates the run, or continues the one that has the tag `metriplex.run_id` of this one.

        Args:
            run: The run; what the server holds at its `resume_step` and beyond is marked as
                superseded.

        Raises:
            TransientError: The server can't be reached.
            ClosedError: The run was closed before.
            ConfigurationError: The experiment was deleted.
        """
        if run.id in self._closed:
            raise _closed_error(run)
        if run.id in self._open:
            return
        with self._calling(retries=0):
            runs = MlflowRuns(
                MlflowClient(self.tracking_uri), run, experiment=self.experiment, tags=self.tags
            )
            runs.open()
        with self._lock:
            self._open[run.id] = runs

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Stores hyper-parameters: as the run's parameters, and exactly in `hparams.json`.

        Args:
            run: The run; lanes that are described get those of the run and their own.
            hparams: Name to value.

        Raises:
            TransientError: The server can't be reached.
        """
        runs = self._find(run)
        with self._calling(retries=0):
            runs.log_hparams(hparams)

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Keeps records for the next request; sends those that fill one already.

        Args:
            run: The run.
            records: The records.

        Raises:
            TransientError: The server can't be reached. None of the records was taken.
            LoggingError: A step is no int64, or a tag is empty. None of the records was taken.
        """
        runs = self._find(run)
        check(records)
        by_lane: dict[int | None, list[Scalars]] = {}
        for record in records:
            by_lane.setdefault(record.lane, []).append(record)
        with self._calling(retries=0):
            writers = {lane: runs.writer(lane) for lane in by_lane}
        with self._calling():
            for writer in writers.values():
                if writer.full:
                    writer.send()
        for lane, writer in writers.items():
            writer.take(by_lane[lane])

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Stores a text as an artifact.

        Args:
            run: The run.
            text: The record.

        Raises:
            TransientError: The server can't be reached.
        """
        self._upload(run, text, files.text_files)

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        """Stores a clip as an artifact, encoded already or here.

        Args:
            run: The run.
            video: The record.

        Raises:
            VideoError: The clip can't be encoded.
            TransientError: The server can't be reached.
        """
        self._upload(run, video, files.video_files)

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        """Stores a picture as an artifact that MLflow's image charts show.

        Args:
            run: The run.
            image: The record.

        Raises:
            TransientError: The server can't be reached.
        """
        self._upload(run, image, files.image_files, {MLFLOW_LOGGED_IMAGES: "True"})

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        """Stores a histogram as an artifact.

        Args:
            run: The run.
            histogram: The record.

        Raises:
            TransientError: The server can't be reached.
        """
        self._upload(run, histogram, files.histogram_files)

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        """Stores a file, or what is in a directory.

        Args:
            run: The run.
            artifact: The record.

        Raises:
            TransientError: The server can't be reached.
            OSError: The file can't be read.
        """
        runs = self._find(run)
        found = files.artifact_files(artifact)
        with self._calling(retries=0):
            writer = runs.writer(artifact.lane)
        folder = files.artifact_folder(artifact.step)
        with self._calling():
            writer.upload({writer.path(folder, name): path for name, path in found.items()})

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        """Stores everything that was logged.

        Args:
            run: The run.

        Raises:
            TransientError: The server can't be reached; what it doesn't have waits for the next
                call.
        """
        runs = self._find(run)
        with self._calling():
            runs.send()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Stores everything and ends the run and its lanes; closing a run again does nothing.

        Args:
            run: The run.
            status: `"finished"`, `"failed"` or `"interrupted"`.

        Raises:
            TransientError: The server can't be reached; the run is open still.
        """
        if status not in _STATUSES:
            raise ConfigurationError(f"`status` must be one of {[*_STATUSES]}; got {status!r}")
        if run.id in self._closed:
            return
        runs = self._find(run)
        with self._calling():
            runs.close(_STATUSES[status])
        with self._lock:
            self._closed.add(run.id)
            del self._open[run.id]

    @hookimpl
    def diagnose(self) -> Diagnosis:
        """Asks the server for the experiment.

        Returns:
            Whether it answers.
        """
        try:
            with self._calling():
                found = MlflowClient(self.tracking_uri).get_experiment_by_name(self.experiment)
        except (TransientError, MlflowException) as error:
            return Diagnosis(
                works=False,
                summary=str(error),
                remedy="start `mlflow server`, or set `MLFLOW_TRACKING_URI` to the address of one",
            )
        kept = "" if found else ", to be created"
        return Diagnosis(
            works=True,
            summary=f"MLflow {mlflow.__version__}, {self.tracking_uri} answers, experiment "
            f"`{self.experiment}`{kept}",
        )

    def _calling(self, *, retries: int = 1) -> AbstractContextManager[None]:
        return calling(self.tracking_uri, self.timeout_secs, retries=retries)

    def _upload(
        self,
        run: RunInfo,
        record: Shown,
        make: Callable[[Shown, str, int], files.Files],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        runs = self._find(run)
        with self._calling(retries=0):
            writer = runs.writer(record.lane)
        folder = writer.name(record.tag, files.TAG_BYTES)
        made = make(record, folder, writer.timestamp(record.step, record.wall_time))
        for key, value in (tags or {}).items():
            writer.add_tag(key, value)
        with self._calling():
            writer.upload(made)

    def _find(self, run: RunInfo) -> MlflowRuns:
        opened = self._open.get(run.id)
        if opened is not None:
            return opened
        if run.id in self._closed:
            raise _closed_error(run)
        raise ClosedError(f"run `{run.name}` is not open: call `open_run` before any other hook")


def _closed_error(run: RunInfo) -> ClosedError:
    return ClosedError(
        f"run `{run.name}` was closed: log before `close`, or start a new run to log more"
    )


def _check_uri(uri: str) -> str:
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
        raise ConfigurationError(
            f"`tracking_uri` is the database {uri!r}, for which mlflow-skinny is not enough: "
            f"`pip install mlflow`, or pass the address of a tracking server"
        )
    if scheme in ("http", "https") and urlsplit(uri).hostname is None:
        raise ConfigurationError(
            f'`tracking_uri` must be an address such as "http://127.0.0.1:5000"; got {uri!r}'
        )
    return uri
