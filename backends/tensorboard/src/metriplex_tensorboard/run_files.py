"""The event files of one run: the run's own, and one for each lane."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence  # noqa: TC003 - part of public annotations
from typing import final

from metriplex import ClosedError, RunInfo
from metriplex_tensorboard.earlier import EarlierEvents
from metriplex_tensorboard.event_file import EventFile, event_files, frame
from metriplex_tensorboard.events import head_events

_PENDING_BYTES = 2**20


@final
class RunFiles:
    """Collect events by lane, up to about a megabyte, and write them in one piece per file.

    Thread-safe: the backend's worker and users of the run's `SummaryWriter` share the files.
    """

    def __init__(self, run: RunInfo, suffix: str, purge_step: int | None) -> None:
        self._run = run
        self._suffix = suffix
        self._purge_step = purge_step
        self._lock = threading.Lock()
        self._opened = time.time()
        self._files: dict[int | None, EventFile] = {}
        self._earlier: dict[int | None, EarlierEvents] = {}
        self._pending = 0
        self._closed = False

    def open(self) -> None:
        """Create the run's own file, to fail early if the directory can't be written."""
        with self._lock:
            self._file(None)
            self._write()

    def append(self, events: Mapping[int | None, Sequence[bytes]]) -> None:
        """Add the serialized events of every lane, or none of them if the call raises.

        Events that an earlier process stored, before it died, are left out.

        Raises:
            ClosedError: The run was closed.
            OSError: The buffer is full, and its events can't be written; or the files of an earlier
                process can't be read.
        """
        with self._lock:
            if self._closed:
                raise ClosedError(
                    f"the event files in `{self._run.directory}` were closed with their run; "
                    f"log before `close`, or start a new run"
                )
            if self._pending >= _PENDING_BYTES:
                self._write()
            files = {lane: self._file(lane) for lane in events}
            for lane, batch in events.items():
                self._earlier[lane].load(batch)
            framed = {
                lane: [frame(event) for event in self._earlier[lane].without_stored(batch)]
                for lane, batch in events.items()
            }
            for lane, records in framed.items():
                files[lane].append(records)
                self._pending += sum(map(len, records))

    def flush(self) -> None:
        """Write all events, so that they survive this process. An `OSError` loses no event."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Write all events; `append` then raises `ClosedError`. An `OSError` closes nothing."""
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
            self._earlier[lane] = EarlierEvents(event_files(directory), self._opened)
            file = self._files[lane] = EventFile(directory, self._suffix)
            file.append([frame(event) for event in head_events(self._purge_step)])
        return self._files[lane]
