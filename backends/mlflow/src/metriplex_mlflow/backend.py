"""The hooks of the MLflow backend."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence  # noqa: TC003 - hook signatures are public
from typing import TYPE_CHECKING, TypeVar, final
from urllib.parse import urlsplit

import mlflow
from mlflow.client import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

from metriplex import (
    Artifact,
    ConfigurationError,
    Diagnosis,
    Histogram,
    Image,
    OpenRuns,
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
    """Log runs to an MLflow tracking server.

    A lane of a vmapped axis is a run of its own (`seed_000`, ..., or the lane's name) below the
    run. Metrics wait in memory until `flush`, or until a thousand of them fill a request. Nothing
    global of MLflow changes: neither the active run nor the tracking URI.

    Args:
        tracking_uri: The server, such as `"http://127.0.0.1:5000"`. None: MLflow's own setting,
            for example by `MLFLOW_TRACKING_URI`.
        experiment: Name of the experiment, which is created if it does not exist. None: the
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
        self._runs = OpenRuns[MlflowRuns]()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Create the run, or continue the run whose tag `metriplex.run_id` has this id.

        Metrics at `resume_step` and later that the server holds are marked as superseded.
        """
        self._runs.open(run, self._open)

    def _open(self, run: RunInfo) -> MlflowRuns:
        client = MlflowClient(self.tracking_uri)
        runs = MlflowRuns(client, run, experiment=self.experiment, tags=self.tags)
        with self._calling(retries=0):
            runs.open()
        return runs

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Store hyper-parameters as parameters, cut to MLflow's limits, and whole in a file.

        A lane that is described gets those of the run and its own.
        """
        with self._calling(retries=0):
            self._runs.find(run).log_hparams(hparams)

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Keep all records for the next request, or none if it raises; send full requests."""
        runs = self._runs.find(run)
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
        self._upload(run, text, files.text_files)

    @hookimpl
    def log_video(self, run: RunInfo, video: Video) -> None:
        self._upload(run, video, files.video_files)

    @hookimpl
    def log_image(self, run: RunInfo, image: Image) -> None:
        """Store a picture that MLflow's image charts show."""
        self._upload(run, image, files.image_files, {MLFLOW_LOGGED_IMAGES: "True"})

    @hookimpl
    def log_histogram(self, run: RunInfo, histogram: Histogram) -> None:
        self._upload(run, histogram, files.histogram_files)

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Artifact) -> None:
        runs = self._runs.find(run)
        found = files.artifact_files(artifact)
        with self._calling(retries=0):
            writer = runs.writer(artifact.lane)
        folder = files.artifact_folder(artifact.step)
        with self._calling():
            writer.upload({writer.path(folder, name): path for name, path in found.items()})

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        with self._calling():
            self._runs.find(run).send()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Store everything, then end the run and its lanes."""
        with self._calling():
            self._runs.close(run, status, lambda runs: runs.close(_STATUSES[status]))

    @hookimpl
    def diagnose(self) -> Diagnosis:
        """Ask the server for the experiment."""
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
        runs = self._runs.find(run)
        with self._calling(retries=0):
            writer = runs.writer(record.lane)
        folder = writer.name(record.tag, files.TAG_BYTES)
        made = make(record, folder, writer.timestamp(record.step, record.wall_time))
        for key, value in (tags or {}).items():
            writer.add_tag(key, value)
        with self._calling():
            writer.upload(made)


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
