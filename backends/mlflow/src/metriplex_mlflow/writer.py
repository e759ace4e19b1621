"""The queue of one MLflow run's metrics, and the requests that send them."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, final

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from metriplex import LoggingError, Scalar, Scalars
from metriplex_mlflow.files import PART_BYTES, Files
from metriplex_mlflow.names import NAME_BYTES, digest_of, encode, shorten
from metriplex_mlflow.service import may_pass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mlflow.client import MlflowClient

BATCH = 1000
"""Metrics in a request: the server's limit. Names are short enough for requests below 1 MB."""

REQUEST_BYTES = 900_000
PARAMS = 100
"""Parameters or tags in a request: the server's limit."""

VALUE_CHARACTERS = 6000
"""Characters of a parameter's value: the server's limit."""

TAG_CHARACTERS = 5000
"""Characters of a tag's value: the lowest limit of any server's version."""

LONG_NAME = "metriplex.name."
"""Prefix of the tags that hold the full form of a shortened name; a digest and a number from 0 on
follow."""

Mark: TypeAlias = tuple[int, int]
"""A step and a timestamp in milliseconds: older metrics at this step and beyond are void."""

Item = TypeVar("Item")


@final
class RunWriter:
    """Batch the requests of one MLflow run.

    Metrics wait in memory until `send`. A metric that is sent again, because the answer to the
    first request was lost, is stored once: the server identifies it by name, timestamp, step and
    value, which depend only on the record.

    Attributes:
        run_id: MLflow's own id of the run.
    """

    def __init__(self, client: MlflowClient, run_id: str, mark: Mark | None) -> None:
        """Write to an existing run.

        Args:
            client: The client.
            run_id: MLflow's own id of the run.
            mark: The step from which on the run supersedes earlier metrics, and the least timestamp
                of metrics from there on.
        """
        self.run_id = run_id
        self._client = client
        self._mark = mark
        self._metrics: list[tuple[str, float, int, int]] = []
        self._tags: dict[str, str] = {}
        self._named: set[str] = set()

    @property
    def full(self) -> bool:
        """True if the metrics that wait fill a request."""
        return len(self._metrics) >= BATCH

    def timestamp(self, step: int, wall_time: float) -> int:
        """Return milliseconds since the Unix epoch, later than all superseded metrics."""
        timestamp = max(round(wall_time * 1000), 0)
        if self._mark is not None and step >= self._mark[0]:
            return max(timestamp, self._mark[1])
        return timestamp

    def take(self, records: Sequence[Scalars]) -> None:
        """Keep the values of records until `send`. The caller has passed them to `check`."""
        for record in records:
            timestamp = self.timestamp(record.step, record.wall_time)
            for tag, value in record.values.items():
                name = self.name(tag, NAME_BYTES)
                self._metrics.append((name, _to_float(value), timestamp, record.step))

    def name(self, tag: str, limit: int) -> str:
        """Return a name of at most `limit` bytes for a tag; MLflow tags keep a longer one."""
        whole = encode(tag)
        short = shorten(whole, limit)
        if short != whole and short not in self._named:
            self._named.add(short)
            for start in range(0, len(whole), TAG_CHARACTERS):
                key = f"{LONG_NAME}{digest_of(short)}.{start // TAG_CHARACTERS}"
                self._tags[key] = whole[start : start + TAG_CHARACTERS]
        return short

    def add_tag(self, key: str, value: str) -> None:
        """Keep a tag until `send`."""
        self._tags[key] = value

    def send(self) -> None:
        """Store everything that waits. After an error, stored batches are not sent again."""
        tags = [RunTag(key, value) for key, value in self._tags.items()]
        for batch in _batches(tags, lambda tag: len(tag.key) + len(json.dumps(tag.value))):
            self._client.log_batch(self.run_id, tags=batch)
            for tag in batch:
                del self._tags[tag.key]
        while self._metrics:
            batch = self._metrics[:BATCH]
            metrics = [Metric(*entry) for entry in batch]
            try:
                self._client.log_batch(self.run_id, metrics=metrics)
            except MlflowException as error:
                if not may_pass(error):  # drop metrics that the server refuses
                    del self._metrics[: len(batch)]
                raise
            del self._metrics[: len(batch)]

    def send_params(self, hparams: Mapping[str, Scalar | str], stored: set[str]) -> None:
        """Store hyper-parameters that the run lacks; existing ones never change.

        Args:
            hparams: Name to value; a value that is too long is cut.
            stored: MLflow's names of the run's parameters; new names are added.
        """
        params = [
            Param(name, _to_param(value))
            for tag, value in hparams.items()
            if (name := self.name(tag, NAME_BYTES)) not in stored
        ]
        self.send()
        for batch in _batches(params, lambda param: len(param.key) + len(json.dumps(param.value))):
            self._client.log_batch(self.run_id, params=batch)
            stored.update(param.key for param in batch)

    def upload(self, files: Files) -> None:
        """Store files among the run's artifacts, replacing files of the same name."""
        self.send()
        with tempfile.TemporaryDirectory(prefix="metriplex-mlflow-") as folder:
            for path, content in files.items():
                local = Path(folder, *path.split("/"))
                local.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    local.write_bytes(content)
                else:
                    _link(content, local)
            self._client.log_artifacts(self.run_id, folder)

    def path(self, step_folder: str, name: str) -> str:
        """Return a path below a folder, with parts short enough for file systems."""
        parts = name.split("/")
        return "/".join([step_folder, *(self.name(part, PART_BYTES) for part in parts)])


def check(records: Iterable[Scalars]) -> None:
    """Check that the store can hold the records.

    Raises:
        LoggingError: A step is no int64, or a tag is empty.
    """
    for record in records:
        if "" in record.values:
            raise LoggingError(f"a tag is empty at step {record.step}: name the value")
        if not -(2**63) <= record.step < 2**63:
            raise LoggingError(
                f"MLflow stores steps from -2**63 to 2**63 - 1; got {record.step}: count them from "
                f"0 on"
            )


def _link(original: Path, local: Path) -> None:
    try:
        local.symlink_to(original.absolute())
    except OSError:  # on Windows few users may create links
        shutil.copyfile(original, local)


def _to_float(value: Scalar) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _to_param(value: Scalar | str) -> str:
    # PostgreSQL accepts no NUL, and UTF-8 has no lone surrogates.
    text = str(value).replace("\0", "\ufffd").encode(errors="replace").decode()
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 3]}..."


def _batches(items: Iterable[Item], size: Callable[[Item], int]) -> list[list[Item]]:
    """Group items into batches of at most `PARAMS` items and `REQUEST_BYTES` bytes."""
    batches: list[list[Item]] = []
    room = 0
    for item in items:
        needed = size(item) + 40
        if not batches or len(batches[-1]) == PARAMS or needed > room:
            batches.append([])
            room = REQUEST_BYTES
        batches[-1].append(item)
        room -= needed
    return batches
