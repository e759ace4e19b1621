"""The contract of backends for W&B, which reads the client's files by wandb's own messages."""

from __future__ import annotations

import html
import json
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import pytest
from wandb.proto import wandb_internal_pb2

from metriplex import Lane
from metriplex.testing import BackendContract, Stored, read_picture
from metriplex_wandb.backend import WandbBackend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from metriplex import RunInfo, Scalar

_STEP = "env_steps"
_RESERVED = ("_step", "_runtime", "_timestamp", "_wandb", _STEP)
_STATUSES = {0: "finished", 1: "failed", 255: "interrupted"}


@final
class Contract(BackendContract):
    """The client writes in offline mode; the tests read the files for `wandb sync`."""

    stores_once: ClassVar[bool] = True

    @pytest.fixture(autouse=True)
    def _in_directories_of_tests(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep the client's settings and caches apart from the user's."""
        for kind in ("CACHE", "CONFIG", "DATA"):
            monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / "wandb"))

    def make_backend(self) -> object:
        """Return a backend that needs no network and no account."""
        return WandbBackend(mode="offline")

    def read_back(self, run: RunInfo) -> Stored:
        """Read the transaction logs of the run and of its lanes."""
        return read_run(run)

    def stored_value(self, value: Scalar) -> Scalar:
        """Return an integer beyond 64 bits as a float."""
        return value if -(2**63) <= value < 2**63 or value != value else float(value)

    def stored_iteration(self, iteration: int) -> None:
        """Return None: a row has no iteration."""

    def stored_hparams(self, hparams: Mapping[str, Scalar | str]) -> Mapping[str, Any]:
        """Return NaN as text, since the client stores no NaN in a config."""
        return {name: "NaN" if value != value else value for name, value in hparams.items()}

    def stored_tag(self, tag: str) -> str:
        """Return another name for names that W&B reserves."""
        return f"tag/{tag}" if tag in _RESERVED else tag


def read_run(run: RunInfo) -> Stored:
    """Read the files of a run, from all of the processes that logged to it.

    Args:
        run: The run; the files of its lanes are read too.
    """
    kinds = ("scalars", "wall_times", "texts", "videos", "images", "histograms", "artifacts")
    found: dict[str, Any] = {kind: defaultdict(list) for kind in kinds}
    hparams: dict[int | None, dict[str, Any]] = defaultdict(dict)
    names: dict[int, str] = {}
    status = None
    for path in _logs(run):
        lane, ended = None, None
        for record in read_log(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                lane = _lane(record.run.run_id.removeprefix(run.id))
                for item in record.run.config.update:
                    hparams[lane] |= _flat(item.key, json.loads(item.value_json, parse_int=_number))
                if lane is not None:
                    names[lane] = record.run.display_name.removeprefix(f"{run.name}-")
            elif kind == "history":
                _take_row(found, lane, record.history, path.parent / "files")
            elif kind == "artifact":
                _take_artifact(found["artifacts"], lane, record.artifact)
            elif kind == "config":
                for item in record.config.update:
                    hparams[lane] |= _flat(item.key, json.loads(item.value_json, parse_int=_number))
            elif kind == "exit":
                ended = _STATUSES[record.exit.exit_code]
        status = ended if lane is None else status
    lanes = {lane: Lane(name, hparams[lane]) for lane, name in names.items()}
    return Stored(hparams=hparams[None], lanes=lanes, status=status, **found)


def read_log(path: Path) -> Iterator[Any]:
    """Read the complete records of a `.wandb` file, which has the log format of LevelDB.

    Args:
        path: The file.

    Yields:
        Messages of the type `Record`.

    References:
        https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    data = path.read_bytes()
    position, parts = 7, b""
    while position + 7 <= len(data):
        room = 2**15 - position % 2**15
        if room < 7:
            position += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + 7 : position + 7 + size]
        if kind == 0 or len(chunk) < size:
            return
        parts = chunk if kind in (1, 2) else parts + chunk
        position += 7 + size
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(parts)


def _logs(run: RunInfo) -> list[Path]:
    """Return the files of a run and its lanes, in the order of their creation."""
    return sorted((run.directory / "wandb").glob(f"*/run-{run.id}*.wandb"), key=_start)


def _start(path: Path) -> int:
    starts = (one.run.start_time for one in read_log(path) if one.HasField("run"))
    return next((start.ToNanoseconds() for start in starts), 0)


def _lane(suffix: str) -> int | None:
    """Return the lane whose number ends a W&B id, after the id of the run itself."""
    return int(suffix.rpartition("_")[2]) if suffix else None


def _take_row(found: dict[str, Any], lane: int | None, row: Any, files: Path) -> None:
    values: dict[str, Any] = {}
    for item in row.item:
        tag, *inner = item.nested_key or [item.key]
        value = json.loads(item.value_json, parse_int=_number)
        if inner:
            values.setdefault(tag, {})[inner[0]] = value
        else:
            values[tag] = value
    step = values.pop(_STEP)
    for tag, value in values.items():
        series = (lane, tag)
        if tag in _RESERVED:
            continue
        found["wall_times"][series].append((step, values["_timestamp"]))
        if not isinstance(value, dict):
            found["scalars"][series].append((step, value))
        elif value["_type"] == "histogram":
            counts, edges = np.array(value["values"]), np.array(value["bins"], float)
            found["histograms"][series].append((step, counts, edges))
        else:
            _take_file(found, series, step, value["_type"], (files / value["path"]).read_bytes())


def _number(text: str) -> int | float:
    """Return the number of JSON's `-0`, which is a float, or an integer."""
    return -0.0 if text == "-0" else int(text)


def _take_file(
    found: dict[str, Any], series: tuple[int | None, str], step: int, kind: str, data: bytes
) -> None:
    if kind == "video-file":
        found["videos"][series].append((step, data))
    elif kind == "image-file":
        found["images"][series].append((step, read_picture(data)))
    else:
        page = data.decode().removeprefix("<pre>").removesuffix("</pre>")
        found["texts"][series].append((step, html.unescape(page)))


def _take_artifact(artifacts: dict[Any, Any], lane: int | None, artifact: Any) -> None:
    step = json.loads(artifact.metadata)["step"]
    for entry in artifact.manifest.contents:
        with open(entry.local_path, "rb") as file:  # noqa: PTH123 - a string of the client
            artifacts[lane, entry.path].append((step, file.read()))


def _flat(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(f"{name}/{key}", one) for key, one in value.items()]
    return {inner: one for part in parts for inner, one in part.items()}
