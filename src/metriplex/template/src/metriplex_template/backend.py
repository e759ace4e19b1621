"""The hooks of the template backend."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, final

from metriplex import OpenRuns, RunInfo, Scalar, Scalars, Text, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE_NAME = "template.jsonl"


@final
class TemplateBackend:
    """Append every record to a file of JSON lines in the run's directory.

    Each line is an object whose `kind` is `open`, `hparams`, `scalars`, `text` or `close`. Lines
    wait in memory until `flush`; after `flush` they survive the end of the process.

    Args:
        flush_secs: The longest time in seconds that lines wait in memory.
    """

    def __init__(self, flush_secs: float = 5.0) -> None:
        self.flush_secs = flush_secs
        self._files = OpenRuns[_File]()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Create the run's file, or continue an existing one.

        The line `open` has the run's `resume_step`, as readers ignore what is superseded, and the
        names and hyper-parameters of its lanes.
        """
        self._files.open(run, _open_file)

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        self._files.find(run).append({"kind": "hparams", "values": dict(hparams)})

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        file = self._files.find(run)
        for record in records:
            file.append({"kind": "scalars", **_plain(record), "values": dict(record.values)})

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        self._files.find(run).append({"kind": "text", **_plain(text)})

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        self._files.find(run).write()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        self._files.close(run, status, lambda file: file.write({"kind": "close", "status": status}))


def _open_file(run: RunInfo) -> _File:
    file = _File(run.directory / FILE_NAME)
    lanes = [{"name": lane.name, "hparams": dict(lane.hparams)} for lane in run.lanes]
    file.write({"kind": "open", "resume_step": run.resume_step, "lanes": lanes})
    return file


@final
class _File:
    """A file, and lines that wait in memory; a write that fails stores none of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._size = path.stat().st_size if path.exists() else 0

    def append(self, line: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(line) + "\n")

    def write(self, *last: Mapping[str, Any]) -> None:
        data = "".join([*self._lines, *(json.dumps(line) + "\n" for line in last)]).encode()
        with self._path.open("r+b" if self._path.exists() else "xb", buffering=0) as file:
            # After a failure the next call begins at the same offset, so no line is stored twice.
            file.seek(self._size)
            file.truncate()
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        self._size += len(data)
        self._lines.clear()


def _plain(record: Scalars | Text) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
