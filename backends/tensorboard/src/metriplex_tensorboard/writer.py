"""A `SummaryWriter` on a run's own event file."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import final

from tensorboardX import SummaryWriter
from tensorboardX.writer import FileWriter

from metriplex_tensorboard.protos import Event  # noqa: TC001 - part of public annotations
from metriplex_tensorboard.run_files import RunFiles  # noqa: TC001 - part of public annotations


@final
class RunWriter(SummaryWriter):
    """A tensorboardX `SummaryWriter` whose events go into the backend's own file.

    TensorBoard follows one file of a directory at a time, the one with the last name; a second
    writer's file would end the live view of the first. This writer has no thread and no queue:
    `add_*` puts the event into memory, `flush` returns when the events are in the file, and both
    raise the errors of writing. After the run is closed, `add_*` raises `metriplex.ClosedError`.
    """

    def __init__(self, directory: Path, files: RunFiles) -> None:
        self._files = files
        super().__init__(logdir=str(directory))

    def _get_file_writer(self) -> FileWriter:
        """Override the only method in which a `SummaryWriter` makes its file."""
        if not isinstance(self.file_writer, FileWriter) or self.all_writers is None:
            self.file_writer = _RunFileWriter(self.logdir, self._files)
            self.all_writers = {self.logdir: self.file_writer}
        return self.file_writer


@final
class _RunFileWriter(FileWriter):
    def __init__(self, logdir: str, files: RunFiles) -> None:
        self.event_writer = _EventSink(logdir, files)
        self._default_metadata = {}


@final
class _EventSink:
    """The event writer of a `FileWriter`."""

    def __init__(self, logdir: str, files: RunFiles) -> None:
        self._logdir = logdir
        self._files = files

    def get_logdir(self) -> str:
        return self._logdir

    def add_event(self, event: Event) -> None:
        self._files.append({None: [event.SerializeToString()]})

    def flush(self) -> None:
        self._files.flush()

    def close(self) -> None:
        self._files.flush()

    def reopen(self) -> None:
        pass
