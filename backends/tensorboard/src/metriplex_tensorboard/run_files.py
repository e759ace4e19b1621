"""The event files of one run: its own and one a lane."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence  # noqa: TC003 - part of public annotations
from typing import final

from metriplex import ClosedError, RunInfo
from metriplex_tensorboard.event_file import EventFile, frame
from metriplex_tensorboard.events import head_events

_PENDING_BYTES = 2**20


@final
class RunFiles:
    """Takes events by lane, keeps about a megabyte of them and writes them in one go a file.

    For several threads: the backend's worker, and whoever uses the run's `SummaryWriter`.
    """

    def __init__(self, run: RunInfo, suffix: str, purge_step: int | None) -> None:
        self._run = run
        self._suffix = suffix
        self._purge_step = purge_step
        self._lock = threading.Lock()
        self._files: dict[int | None, EventFile] = {}
        self._pending = 0
        self._closed = False

    def open(self) -> None:
        """Creates the run's own file, so that a directory that can't be written is known at once.

        Raises:
            OSError: It can't be created or written.
        """
        with self._lock:
            self._file(None)
            self._write()

    def append(self, events: Mapping[int | None, Sequence[bytes]]) -> None:
        """Takes all of the events, or none if it raises, so that a call may be made again.

        Args:
            events: Lane (None for the run itself) to serialized events in their order.

        Raises:
            ClosedError: The run was closed.
            OSError: There was no room left for them, because what waits can't be written.
        """
        framed = {lane: [frame(event) for event in batch] for lane, batch in events.items()}
        with self._lock:
            if self._closed:
                raise ClosedError(
                    f"the event files in `{self._run.directory}` were closed with their run; "
                    f"log before `close`, or start a new run"
                )
            if self._pending >= _PENDING_BYTES:
                self._write()
            for lane, records in framed.items():
                self._file(lane).append(records)
                self._pending += sum(map(len, records))

    def flush(self) -> None:
        """Writes everything that was appended; then it survives this process.

        Raises:
            OSError: What could not be written is kept for the next call.
        """
        with self._lock:
            self._write()

    def close(self) -> None:
        """Writes everything that was appended, after which nothing more can be.

        Raises:
            OSError: As `flush`; the files are still open then.
        """
        with self._lock:
            self._write()
            self._closed = True

    def _write(self) -> None:
        for file in self._files.values():
            file.write()
        self._pending = 0

    def _file(self, lane: int | None) -> EventFile:
        if lane not in self._files:
            directory = self._run.directory
            if lane is not None:
                directory /= self._run.lane_name(lane)
            file = self._files[lane] = EventFile(directory, self._suffix)
            file.append([frame(event) for event in head_events(self._purge_step)])
        return self._files[lane]
