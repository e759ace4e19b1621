"""The MLflow runs of one metriplex run: a parent, and a child for each lane."""

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
from metriplex_mlflow.writer import Mark, RunWriter

if TYPE_CHECKING:
    from mlflow.client import MlflowClient
    from mlflow.entities import Run

RUN_ID = "metriplex.run_id"
"""The tag that identifies a run: the run's id, with `/seed_000` for a lane."""

LANE = "metriplex.lane"

SUPERSEDED = "metriplex.superseded"
"""The tag of a continued run, `[[step, timestamp], ...]`: each pair makes void what was stored at
`step` and beyond before `timestamp` (milliseconds)."""

HPARAMS = "hparams.json"

Calling: TypeAlias = Callable[[], AbstractContextManager[None]]


@final
class MlflowRuns:
    """Open, continue and end the MLflow runs of one metriplex run.

    Call the methods within `calling`, which translates the client's errors. A call that is repeated
    after a `TransientError` stores nothing twice.
    """

    def __init__(
        self,
        client: MlflowClient,
        run: RunInfo,
        *,
        experiment: str,
        tags: Mapping[str, str],
    ) -> None:
        """Prepare; `open` sends the first request.

        Args:
            client: The client.
            run: The run.
            experiment: The experiment's name.
            tags: Tags of the run and its lanes.
        """
        self._client = client
        self._run = run
        self._experiment = experiment
        self._tags = dict(tags)
        self._experiment_id = ""
        self._mark: Mark | None = None
        self._lanes: dict[int, str] = {}
        self._stale = True
        self._params: dict[int | None, set[str]] = {}
        self._hparams: dict[int | None, dict[str, Scalar | str]] = {}
        self._writers: dict[int | None, RunWriter] = {}
        self._ended: set[str] = set()

    def open(self) -> None:
        """Continue the run if the experiment has it, else create it."""
        self._experiment_id = self._find_experiment()
        found = self._find()
        if found is None:
            run_id = self._create(self._run.id, self._run.name, {})
            self._stale = False
        else:
            run_id = found.info.run_id
            self._continue(found)
        self._writers[None] = RunWriter(self._client, run_id, self._mark)

    def writer(self, lane: int | None) -> RunWriter:
        """Return the writer of the run itself or of a lane; create the lane's run if needed."""
        if lane is not None and lane not in self._writers:
            run_id = self._open_lane(lane)
            self._writers[lane] = RunWriter(self._client, run_id, self._mark)
        return self._writers[lane]

    def send(self) -> None:
        """Store everything that waits."""
        for writer in self._writers.values():
            writer.send()

    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Store hyper-parameters with the run, and with each lane that is described."""
        self._log_hparams(None, hparams)
        for lane, described in enumerate(self._run.lanes):
            self._log_hparams(lane, {**hparams, **described.hparams})

    def close(self, status: str) -> None:
        """Store everything and end the lanes' runs, then the run itself."""
        self.send()
        for run_id in (*self._lanes.values(), self._writers[None].run_id):
            if run_id not in self._ended:
                self._client.set_terminated(run_id, status)
                self._ended.add(run_id)

    def _continue(self, found: Run) -> None:
        run_id, step = found.info.run_id, self._run.resume_step
        lanes = list(self._children(run_id))
        if step is not None:
            self._mark = step, 1 + max(map(_newest, [found, *lanes]))
            marks = [*(mark for mark in _marks(found) if mark[0] < step), self._mark]
            self._client.set_tag(run_id, SUPERSEDED, json.dumps(marks))
        self._client.update_run(run_id, status="RUNNING")

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return self._client.create_experiment(self._experiment)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(self._experiment)  # another's
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
        self._stale = True  # if the answer is lost, the run exists
        created = self._client.create_run(
            self._experiment_id,
            start_time=round(self._run.start_time * 1000),
            tags={**self._tags, **tags, RUN_ID: identity},
            run_name=name,
        )
        return created.info.run_id

    def _open_lane(self, lane: int) -> str:
        parent = self._writers[None].run_id
        if self._stale:
            list(self._children(parent))
        if lane in self._lanes:
            self._client.update_run(self._lanes[lane], status="RUNNING")
        else:
            tags = {MLFLOW_PARENT_RUN_ID: parent, LANE: str(lane)}
            identity = f"{self._run.id}/{lane_name(lane)}"
            self._lanes[lane] = self._create(identity, self._run.lane_name(lane), tags)
            self._stale = False
        return self._lanes[lane]

    def _log_hparams(self, lane: int | None, hparams: Mapping[str, Scalar | str]) -> None:
        """Store hyper-parameters as parameters, which MLflow never changes, and in a file."""
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


def _marks(run: Run) -> list[Mark]:
    stored = json.loads(run.data.tags.get(SUPERSEDED, "[]"))
    return [(int(step), int(timestamp)) for step, timestamp in stored]


def _newest(run: Run) -> int:
    """Return the latest timestamp of a run's metrics and marks, in milliseconds."""
    stored = [metric.timestamp for metric in run.data.to_proto().metrics]
    return max([0, *stored, *(mark[1] for mark in _marks(run))])
