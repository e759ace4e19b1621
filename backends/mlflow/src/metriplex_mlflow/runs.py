"""The MLflow runs of one metriplex run: its own, and one below it for each lane."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from metriplex import ConfigurationError, RunInfo, Scalar, lane_name
from metriplex_mlflow.writer import RunWriter

if TYPE_CHECKING:
    from mlflow.client import MlflowClient
    from mlflow.entities import Run

RUN_ID = "metriplex.run_id"
"""The tag by which a run is found again: the run's id, and `/seed_000` for a lane."""

LANE = "metriplex.lane"

SUPERSEDED = "metriplex.superseded"
"""The tag that says what a run which was continued has logged again: `[[step, timestamp], ...]`,
each of which makes void what was stored at `step` and beyond before `timestamp` (milliseconds)."""

HPARAMS = "hparams.json"

Calling: TypeAlias = Callable[[], AbstractContextManager[None]]


@final
class MlflowRuns:
    """Opens, continues and ends the MLflow runs of one metriplex run.

    Its methods raise what `calling` makes of the client's errors; made again after a
    `TransientError`, they store nothing twice.
    """

    def __init__(
        self,
        client: MlflowClient,
        run: RunInfo,
        *,
        experiment: str,
        tags: Mapping[str, str],
    ) -> None:
        """Asks nothing of the server.

        Args:
            client: The client.
            run: The run.
            experiment: The experiment's name.
            tags: Of the run and its lanes.
        """
        self._client = client
        self._run = run
        self._experiment = experiment
        self._tags = dict(tags)
        self._experiment_id = ""
        self._floor = 0
        self._lanes: dict[int, str] = {}
        self._stale = True
        self._params: dict[int | None, set[str]] = {}
        self._hparams: dict[int | None, dict[str, Scalar | str]] = {}
        self._writers: dict[int | None, RunWriter] = {}

    def open(self) -> None:
        """Continues the run if the experiment has it, else creates it."""
        self._experiment_id = self._find_experiment()
        found = self._find()
        if found is None:
            created = self._create(self._run.id, self._run.name, {})
            self._stale = False
            self._writers[None] = RunWriter(self._client, created, self._floor)
            return
        run_id = found.info.run_id
        lanes = list(self._children(run_id))
        self._floor = max([0, *(mark[1] for mark in _marks(found))])
        writer = RunWriter(self._client, run_id, self._floor)
        if self._run.resume_step is not None:
            self._floor = 1 + max(map(_newest, [found, *lanes]))
            writer = RunWriter(self._client, run_id, self._floor)
            marks = [mark for mark in _marks(found) if mark[0] < self._run.resume_step]
            marks.append((self._run.resume_step, self._floor))
            writer.add_tag(SUPERSEDED, json.dumps(marks))
            writer.send()
        self._client.update_run(run_id, status="RUNNING")
        self._writers[None] = writer

    def writer(self, lane: int | None) -> RunWriter:
        """The writer of the run itself or of a lane, whose run is created where there is none."""
        if lane not in self._writers:
            self._writers[lane] = self._open_lane(lane)
        return self._writers[lane]

    def send(self) -> None:
        """Stores everything that waits."""
        for writer in self._writers.values():
            writer.send()

    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Stores hyper-parameters with the run, and with each lane that is described."""
        self._log_hparams(None, hparams)
        for lane, described in enumerate(self._run.lanes):
            self._log_hparams(lane, {**hparams, **described.hparams})

    def close(self, status: str) -> None:
        """Stores everything and ends the lanes' runs, then the run itself."""
        self.send()
        for lane in sorted(self._writers, key=lambda lane: lane is None):
            writer = self._writers[lane]
            if not writer.closed:
                self._client.set_terminated(writer.run_id, status)
                writer.closed = True

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return self._client.create_experiment(self._experiment)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(self._experiment)  # by another process
        if found is None or found.lifecycle_stage != "active":
            raise ConfigurationError(
                f"the MLflow experiment `{self._experiment}` was deleted: restore it with `mlflow "
                f"experiments restore`, or name another one by `experiment=`"
            )
        return found.experiment_id

    def _find(self) -> Run | None:
        found = self._client.search_runs(
            [self._experiment_id],
            f"tags.`{RUN_ID}` = '{self._run.id}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return found[0] if found else None

    def _children(self, run_id: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'",
                max_results=1000,
                page_token=token,
            )
            for child in page:
                if LANE in child.data.tags:
                    self._lanes.setdefault(int(child.data.tags[LANE]), child.info.run_id)
                    yield child
            token = page.token
            if not token:
                self._stale = False
                return

    def _create(self, identity: str, name: str, tags: Mapping[str, str]) -> str:
        self._stale = True  # where the answer gets lost, the run is there
        created = self._client.create_run(
            self._experiment_id,
            start_time=round(self._run.start_time * 1000),
            tags={**self._tags, **tags, RUN_ID: identity},
            run_name=name,
        )
        return created.info.run_id

    def _open_lane(self, lane: int | None) -> RunWriter:
        parent = self._writers[None].run_id
        if lane is None:
            return self._writers[None]
        if self._stale:
            list(self._children(parent))
        known = self._lanes.get(lane)
        if known is None:
            tags = {MLFLOW_PARENT_RUN_ID: parent, LANE: str(lane)}
            identity = f"{self._run.id}/{lane_name(lane)}"
            known = self._create(identity, self._run.lane_name(lane), tags)
            self._lanes[lane] = known
            self._stale = False
        else:
            self._client.update_run(known, status="RUNNING")
        return RunWriter(self._client, known, self._floor)

    def _log_hparams(self, lane: int | None, hparams: Mapping[str, Scalar | str]) -> None:
        """As parameters, which MLflow never changes, and exactly as a file."""
        writer = self.writer(lane)
        run_id = writer.run_id
        if lane not in self._hparams:
            self._params[lane] = set(self._client.get_run(run_id).data.params)
            self._hparams[lane] = self._stored_hparams(run_id)
        writer.send_params(hparams, self._params[lane])
        merged = {**self._hparams[lane], **hparams}
        writer.upload({HPARAMS: json.dumps(merged, indent=1).encode()})
        self._hparams[lane] = merged

    def _stored_hparams(self, run_id: str) -> dict[str, Scalar | str]:
        if not any(file.path == HPARAMS for file in self._client.list_artifacts(run_id)):
            return {}
        with tempfile.TemporaryDirectory(prefix="metriplex-mlflow-") as folder:
            local = self._client.download_artifacts(run_id, HPARAMS, folder)
            return json.loads(Path(local).read_text(encoding="utf-8"))


def _marks(run: Run) -> list[tuple[int, int]]:
    stored = json.loads(run.data.tags.get(SUPERSEDED, "[]"))
    return [(int(step), int(timestamp)) for step, timestamp in stored]


def _newest(run: Run) -> int:
    """The latest timestamp in milliseconds of what a run has, as far as MLflow tells."""
    stored = [metric.timestamp for metric in run.data.to_proto().metrics]
    return max([0, *stored, *(mark[1] for mark in _marks(run))])
