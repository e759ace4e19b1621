"""The hooks of the template backend."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, final

from metriplex import ClosedError, RunInfo, Scalar, Scalars, Text, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE_NAME = "template.jsonl"


@final
class TemplateBackend:
    """Appends every record to a file of JSON lines in the run's directory.

    Each line is an object whose `kind` is `open`, `hparams`, `scalars`, `text` or `close`. Lines
    wait in memory for `flush`; after that they survive the end of the process.

    Args:
        flush_secs: The longest time in seconds that lines wait in memory.
    """

    def __init__(self, flush_secs: float = 5.0) -> None:
        self.flush_secs = flush_secs
        self._open: dict[str, _File] = {}

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        """Opens the run's file, or goes on with the one that is there.

        Args:
            run: The run; its `resume_step` is kept, so that readers leave out what is superseded.

        Raises:
            OSError: The file can't be created.
        """
        file = _File(run.directory / FILE_NAME)
        file.append({"kind": "open", "resume_step": run.resume_step})
        file.write()
        self._open[run.id] = file

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        """Keeps hyper-parameters.

        Args:
            run: The run.
            hparams: Name to value.
        """
        self._find(run).append({"kind": "hparams", "values": dict(hparams)})

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Keeps scalars, a line for each record.

        Args:
            run: The run.
            records: In the order in which they are kept.
        """
        file = self._find(run)
        for record in records:
            file.append({"kind": "scalars", **_plain(record), "values": dict(record.values)})

    @hookimpl
    def log_text(self, run: RunInfo, text: Text) -> None:
        """Keeps a text.

        Args:
            run: The run.
            text: The record.
        """
        self._find(run).append({"kind": "text", **_plain(text)})

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        """Writes everything that was logged.

        Args:
            run: The run.

        Raises:
            OSError: Nothing was written, and everything is kept for the next call.
        """
        self._find(run).write()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Writes everything; closing a run again does nothing.

        Args:
            run: The run.
            status: `"finished"`, `"failed"` or `"interrupted"`.

        Raises:
            OSError: As `flush`; the run is open still.
        """
        file = self._open.get(run.id)
        if file is None:
            return
        file.write({"kind": "close", "status": status})
        del self._open[run.id]

    def _find(self, run: RunInfo) -> _File:
        file = self._open.get(run.id)
        if file is None:
            raise ClosedError(
                f"run `{run.name}` is not open: log between `open_run` and `close_run`"
            )
        return file


@final
class _File:
    """Lines that wait, and the file that gets all of them or, if writing fails, none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._size = path.stat().st_size if path.exists() else 0

    def append(self, line: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(line) + "\n")

    def write(self, *last: Mapping[str, Any]) -> None:
        data = "".join([*self._lines, *(json.dumps(line) + "\n" for line in last)]).encode()
        with self._path.open("r+b" if self._path.exists() else "xb", buffering=0) as file:
            # After a failure the next call begins at the same place, so nothing is there twice.
            file.seek(self._size)
            file.truncate()
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        self._size += len(data)
        self._lines.clear()


def _plain(record: Scalars | Text) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
