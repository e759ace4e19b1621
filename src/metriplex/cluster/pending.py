"""Hold the records of a process until it is known which process writes the run."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.run.run import Run

logger = logging.getLogger("metriplex")


@final
class Kept:
    """A queue of records that wait until they are logged or dropped. Not thread-safe."""

    def __init__(self) -> None:
        self._logs: list[Callable[[Run], None]] = []
        self._since = 0.0
        self._files: tempfile.TemporaryDirectory[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._logs)

    @property
    def age(self) -> float:
        """Seconds since the oldest waiting record was added; 0 if empty."""
        return time.monotonic() - self._since if self._logs else 0.0

    def add(self, log: Callable[[Run], None]) -> None:
        """Add a function that logs one record."""
        if not self._logs:
            self._since = time.monotonic()
        self._logs.append(log)

    def add_file(self, source: Path, log: Callable[[Run, Path], None]) -> None:
        """Copy a file or directory, and add a function that logs the copy."""
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="metriplex-")
        held = Path(self._files.name) / str(len(self._logs))
        copy(source, held)
        self.add(lambda run: log(run, held))

    def log_into(self, run: Run) -> None:
        """Log all records to `run` in order, and drop them."""
        for log in self._logs:
            try:
                log(run)
            except Exception:  # log the remaining records anyway
                logger.exception("run `%s`: a record that waited can't be logged", run.info.name)
        self.drop()

    def drop(self) -> None:
        """Drop all records and delete the copies of files."""
        self._logs.clear()
        if self._files is not None:
            self._files.cleanup()
            self._files = None


def copy(source: Path, target: Path) -> None:
    """Copy a file or a directory to a path that doesn't exist."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
