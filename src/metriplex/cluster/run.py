"""A run of several processes, of which one writes it.

A process opens the run, and makes its directory and backends, only if it is the one that writes,
and only when there is something to write.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, final

from metriplex.cluster.pending import Kept
from metriplex.errors import ClosedError, ConfigurationError, MetriplexError
from metriplex.journal import has_journal, read_run
from metriplex.naming import local_directory
from metriplex.run.opening import look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from metriplex.bridge.rows import Rows
    from metriplex.cluster.processes import Cluster
    from metriplex.records import Delivery, Media, RunInfo, Scalar
    from metriplex.run.opening import RunSpec
    from metriplex.run.run import Run

logger = logging.getLogger("metriplex")

HOLD_SECONDS = 10.0
"""Longest time that records of the host wait for rows, which decide the process that writes."""

ARRIVE_SECONDS = 10.0
"""Longest time that process 0 waits for the others before it writes a run without rows."""


def is_written_here(run: Run | ClusterRun) -> bool:
    """Return True if this process writes records of the host; always true for one process."""
    return not isinstance(run, ClusterRun) or run.for_host() is not None


@final
class ClusterRun:
    """A run in each of several processes, which the one that writes opens.

    Rows open it. Every process logs the same records of its host; those that come before any rows
    wait: the process that gets the rows logs its own copy, and the others drop theirs. If no rows
    come, process 0 writes the run: at `flush` or `close`, or when the host has logged for
    `HOLD_SECONDS`.

    A second process that receives rows (each has lanes of its own) writes a run of its own,
    `{name}_process_1`, and continues that one where the run is continued.

    Process 0 decides the run's name. If there is no run to continue, or the processes don't agree,
    all of them raise `ConfigurationError`.

    Args:
        cluster: The processes.
        spec: The run to open.
        start: Opens, assembles and starts a run; leaves nothing behind if it raises.

    Attributes:
        place: The position in the training at which it begins, the same in every process.
    """

    def __init__(self, cluster: Cluster, spec: RunSpec, start: Callable[[RunSpec], Run]) -> None:
        self._resumed = spec.resume is not None
        if self._resumed:
            cluster.gather()  # each has closed what it constructed before: the run is as it is
        self._info, self.place = cluster.agree(functools.partial(look_up, spec))
        if not self._resumed:
            directory = local_directory(spec.log_dir) / self._info.name
            self._info = dataclasses.replace(self._info, directory=directory)
        self._cluster = cluster
        self._spec = spec
        self._start = start
        self._run: Run | None = None
        self._writer: int | None = None
        self._hparams: dict[str, Scalar | str] = {}
        self._kept = Kept()
        self._turns = 0
        self._arrived = False
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._failed = False
        self._closed = False

    @property
    def info(self) -> RunInfo:
        """The description of the run that backends get, in the process that writes it."""
        return self._info if self._run is None else self._run.info

    @property
    def closed(self) -> bool:
        """True if nothing more can be logged."""
        return self._closed or os.getpid() != self._process

    def receive(self, rows: Rows) -> None:
        """Take rows as they come from the device. The receiver thread calls."""
        with self._lock:
            run = self._run or self._open_for_rows()
        if run is not None:
            run.receive(rows)

    def release(self) -> None:
        """Pass on the rows that wait for earlier ones: the program has ended."""
        if self._run is not None:
            self._run.release()

    def log_scalars(self, step: int, values: Mapping[str, Scalar]) -> None:
        """Log scalars, as `Run.log_scalars` does."""
        now = time.time()
        self._log(lambda run: run.log_scalars(step, values, now))

    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Log hyper-parameters, as `Run.log_hparams` does; kept until the run is opened here."""
        with self._lock:
            if self._run is None:
                self._check_open()
                self._hparams.update(hparams)
                return
        self._run.log_hparams(hparams)

    def log_media(self, record: Media) -> None:
        """Log media, as `Run.log_media` does."""
        self._log(lambda run: run.log_media(record))

    def log_file(self, source: Path, log: Callable[[Run, Path], None]) -> None:
        """Call `log` with a file or directory, now or later with a copy of it."""
        with self._lock:
            if self._waits():
                self._kept.add_file(source, log)
                return
        if self._run is not None:
            log(self._run, source)

    def flush(self, timeout: float) -> None:
        """Flush, as `Run.flush` does; if no process has rows, process 0 waits for the others."""
        self._check_open()
        self._settle(timeout)
        if self._run is not None:
            self._run.flush(timeout)

    def close(self, status: str, timeout: float) -> None:
        """Close, as `Run.close` does; if no process has had rows, flush first."""
        if self.closed:
            if self._run is not None:
                self._run.close(status, timeout)
            return
        deadline = time.monotonic() + timeout
        self._settle(timeout / 2)
        with self._lock:
            self._closed = True
            self._kept.drop()
        if self._run is not None:
            self._run.close(status, max(deadline - time.monotonic(), 0.0))

    def deliveries(self) -> tuple[Delivery, ...]:
        """Return the deliveries, as `Run.deliveries` does; empty if this process doesn't write."""
        return () if self._run is None else self._run.deliveries()

    def for_host(self) -> Run | None:
        """Return the run if this process writes records of the host; open it in process 0."""
        with self._lock:
            if self._run is None:
                self._check_open()
                self._decide()
            return self._run

    # ---- who writes -----------------------------------------------------------------------------

    def _log(self, log: Callable[[Run], None]) -> None:
        """Log a record of the host: now, once the writing process is known, or not at all."""
        with self._lock:
            if self._waits():
                self._kept.add(log)
                return
        if self._run is not None:
            log(self._run)

    def _waits(self) -> bool:
        """Return True if records of the host are kept: the process that writes isn't known yet."""
        if self._run is not None:
            return False
        self._check_open()
        if self._kept.age > HOLD_SECONDS:
            self._decide()
        return self._run is None and self._writer is None

    def _settle(self, timeout: float) -> None:
        """Have the kept records written, by process 0 unless another process gets rows."""
        with self._lock:
            self._turns += 1
            turn, unsettled = self._turns, bool(self._kept)
        if self._cluster.process != 0:
            if not self._arrived:
                with self._lock:
                    self._decide()
                    self._arrived = self._run is not None or self._writer is not None
                self._cluster.arrive(turn)
        elif unsettled:
            if self._cluster.writer() is None:
                self._cluster.wait(turn, min(timeout, ARRIVE_SECONDS))
            self.for_host()

    def _decide(self) -> None:
        """Claim the run for process 0 if no process has it; in the others ask which one has it."""
        if self._writer is not None:
            return
        first = self._cluster.process == 0
        self._writer = self._cluster.claim() if first else self._cluster.writer()
        if self._writer == self._cluster.process:
            self._open_main()
        elif self._writer is not None:
            self._kept.drop()
        elif first:  # the coordinator is gone: two runs are better than a garbled one or none
            self._open_own()

    # ---- opening --------------------------------------------------------------------------------

    def _open_for_rows(self) -> Run | None:
        own = self._find_own() if self._resumed else None
        if own is not None:
            return self._open_as(own, own.directory, self.place.step)
        if self._writer is None:
            self._writer = self._cluster.claim()
        if self._writer == self._cluster.process:
            return self._open_main()
        if self._writer is not None:
            self._kept.drop()
        return self._open_own()

    def _find_own(self) -> RunInfo | None:
        """Return the run that this process wrote beside the one that is continued, if any."""
        own = self._own_info()
        for directory in sorted(own.directory.parent.glob(f"{glob.escape(own.name)}*")):
            with contextlib.suppress(ConfigurationError, OSError):
                if (known := read_run(directory)).id == own.id:
                    return known
        return None

    def _own_info(self) -> RunInfo:
        mark = self._cluster.process
        name = f"{self._info.name}_process_{mark}"
        directory = self._info.directory.with_name(name)
        return dataclasses.replace(
            self._info, id=f"{self._info.id}-{mark}", name=name, directory=directory
        )

    def _open_main(self) -> Run | None:
        resume = self._info.directory if self._resumed else None
        return self._open_as(self._info, resume, self._spec.resume_step)

    def _open_own(self) -> Run | None:
        return self._open_as(self._own_info())

    def _open_as(
        self, info: RunInfo, resume: Path | None = None, resume_step: int | None = None
    ) -> Run | None:
        if self._failed or self._closed:
            return None
        spec = dataclasses.replace(
            self._spec,
            log_dir=info.directory.parent,
            name=info.name,
            start_time=info.start_time,
            run_id=info.id,
            resume=resume,
            resume_step=resume_step,
        )
        try:
            if resume is not None and not has_journal(resume):
                raise ConfigurationError(
                    f"process {self._cluster.process} is to continue it, and there is no journal "
                    f"in {str(resume)!r} there: put `log_dir` on a file system that all processes "
                    f"share, under the same path"
                )
            self._run = self._start(spec)
            if self._hparams:
                self._run.log_hparams(self._hparams)
        except MetriplexError as error:
            self._failed = True
            logger.error("run `%s` can't be opened, nothing of it is logged: %s", info.name, error)  # noqa: TRY400 - it says everything that the user can mend
        except Exception:
            self._failed = True
            logger.exception("run `%s` can't be opened; nothing of it is logged", info.name)
        if self._run is not None:
            self._kept.log_into(self._run)
        return self._run

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"run `{self._info.name}` is closed: construct a new callback")
