"""The host side of one run: orders rows, checks values, and hands records to every backend."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import threading
import time
from typing import TYPE_CHECKING, NoReturn, Protocol, final

from metriplex.bridge.rows import Row
from metriplex.delivery import calls
from metriplex.delivery.worker import Worker
from metriplex.errors import ClosedError
from metriplex.journal.acks import Ack, ack_path, load_ack
from metriplex.plugins.scalar_transforms import Transforms
from metriplex.records import Delivery, Media, RunInfo, Scalar, Scalars
from metriplex.run.lanes import LaneCount
from metriplex.run.nonfinite import FiniteFilter, NonFinite
from metriplex.run.sequencer import WINDOW, Sequencer
from metriplex.run.shutdown import hold_if_terminating

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metriplex.delivery.calls import Call
    from metriplex.delivery.run_journal import RunJournal
    from metriplex.plugins.backends import Backend
    from metriplex.run.aggregate import Aggregator
    from metriplex.run.background import BackgroundThread

logger = logging.getLogger("metriplex")

STEPS_PER_SECOND = "time/steps_per_second"

JOURNAL_QUEUE = 65_536
"""Records that may wait for the journal before newer ones are dropped."""

BACKGROUND_SECONDS = 5.0
"""How long `close` waits for each background thread."""

JOURNAL_SECONDS = 2.0
"""How long `close` waits for the journal at least, when backends have used up all the time."""


class Recorder(Protocol):
    """What makes videos of the rollouts that a run receives."""

    def submit(self, row: Row) -> None:
        """Takes a rollout; returns at once. The drain thread calls."""

    def close(self, timeout: float) -> None:
        """Waits for the videos under way, `timeout` seconds at most. May be called again."""


@final
class Run:
    """Everything of one run that lives on the host.

    `receive` is called by the drain thread, everything else by any thread. A lock keeps records of
    both in one order for all backends, in which they are numbered; of all hooks only transforms are
    called under it.

    Args:
        info: What backends know of the run.
        backends: What it is logged to.
        transforms: What changes or drops scalars before anything else sees them.
        nonfinite: As for `MetricsCallback`.
        queue_size: Records that may wait in memory for one backend.
        journal: What keeps them until every backend has them; None for nothing.

    Attributes:
        info: What backends know of the run.
        recorder: Makes videos, if there are any.
        background: Background threads of the run, until it is closed.
        newest_step: The greatest step that was logged.
        aggregator: Makes statistics over lanes, if they are wanted.
        lane_count: Compares the lanes that come with those that were described.
    """

    def __init__(
        self,
        info: RunInfo,
        backends: Sequence[Backend],
        transforms: Transforms | None = None,
        *,
        nonfinite: NonFinite = "error",
        queue_size: int = 65_536,
        journal: RunJournal | None = None,
    ) -> None:
        self.info = info
        self._transforms = transforms or Transforms()
        self._finite = FiniteFilter(info.name, nonfinite)
        self._number = 0 if journal is None else journal.start
        self._resumed = self._number > 0
        self._journal = journal
        self._recording: Worker | None = None
        if journal is not None:
            self._recording = Worker(
                journal, info, queue_size=JOURNAL_QUEUE, start=journal.start, patient=True
            )
        self._workers = [
            Worker(
                backend,
                info,
                queue_size=queue_size,
                start=self._number,
                patient=journal is not None,
                journal=journal,
                ack=None if journal is None else _ack(info, backend, journal.start),
            )
            for backend in backends
        ]
        self._all = [*([self._recording] if self._recording else []), *self._workers]
        self._sequencers: dict[int | None, Sequencer] = {}
        self._newest: dict[int | None, tuple[int, float]] = {}
        self.recorder: Recorder | None = None
        self.background: list[BackgroundThread] = []
        self.newest_step = 0
        self._started = False
        self.lane_count = LaneCount(info)
        self.aggregator: Aggregator | None = None
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._closed = False
        self._ended = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be logged; so it is in a forked child, without the threads."""
        return self._closed or os.getpid() != self._process

    def receive(self, rows: Sequence[Row]) -> None:
        """Takes rows as they come from the device. The drain thread calls."""
        if not self._started:
            self._started = True
            for thread in self.background:
                thread.program_started()
        with self._lock:
            self.lane_count.look(rows)
            if self.aggregator is not None and self.lane_count.here:
                self.aggregator.lanes = self.lane_count.here
            due: list[Row] = []
            for row in rows:
                sequencer = self._sequencers.get(row.lane)
                if sequencer is None:
                    sequencer = Sequencer(self._first_number(row.lane, rows))
                    self._sequencers[row.lane] = sequencer
                if row.kind == "start":
                    # A new program counts from 0 again: nothing of it is a duplicate.
                    due += [early for one in self._sequencers.values() for early in one.release()]
                due += sequencer.push(row)
            self._take(due)

    def _first_number(self, lane: int | None, rows: Sequence[Row]) -> int:
        """The number of a lane's first row, of which these are the earliest that have come."""
        # Rows from before the state differed between lanes count for all of them.
        common = self._sequencers.get(None)
        if common is not None:
            return common.expected
        numbers = (row.sequence for row in rows if row.lane == lane and row.sequence is not None)
        least = min(numbers, default=0)
        # A state of a checkpoint counts on; what it counted before will never come. If an earlier
        # row is still on its way after all, it is late, not lost.
        return least if self._resumed or least > WINDOW else 0

    def release(self) -> None:
        """Hands on the rows that still wait for earlier ones: the program has ended."""
        with self._lock:
            self._take([row for one in self._sequencers.values() for row in one.release()])
            self._submit_checked(self.aggregator.release() if self.aggregator else ())

    def log_scalars(
        self, step: int, values: Mapping[str, Scalar], wall_time: float | None = None
    ) -> None:
        """Logs values that are on the host already.

        Args:
            step: Environment steps taken so far.
            values: Tag to value.
            wall_time: Seconds since the Unix epoch; None for now.

        Raises:
            ClosedError: The run is closed.
        """
        now = time.time() if wall_time is None else wall_time
        record = Scalars(step=step, values=dict(values), wall_time=now)
        self._log(lambda: self._submit_scalars([record]))

    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Logs flat hyper-parameters. Raises `ClosedError` if the run is closed."""
        self._log(lambda: self._submit(calls.log_hparams(self._number, dict(hparams))))

    def log_media(self, record: Media) -> None:
        """Logs a text, a clip, a picture, ... Raises `ClosedError` if the run is closed."""
        self._log(lambda: self._submit(calls.log_media(self._number, record)))

    def flush(self, timeout: float) -> None:
        """Waits until every backend has flushed what it was given before, or `timeout` seconds.

        Raises:
            ClosedError: The run is closed.
            NonFiniteError: Values were rejected since the last `flush`.
        """
        if self.closed:
            self._refuse()
        deadline = time.monotonic() + timeout
        for done in [worker.start_flush() for worker in self._all]:
            done.wait(max(deadline - time.monotonic(), 0.0))
        self._finite.raise_rejected()

    def close(self, status: str, timeout: float) -> None:
        """Delivers what is queued, closes every backend, and reports what was not delivered.

        Calling it again only waits for the first call to end. A backend that hangs is given up
        after `timeout` seconds.

        Raises:
            NonFiniteError: Values were rejected since the last `flush`.
        """
        if os.getpid() != self._process:
            return
        deadline = time.monotonic() + timeout
        try:
            for thread in self.background:
                thread.close(min(timeout / 4, BACKGROUND_SECONDS))
            if self.recorder is not None and not self._closed:
                for worker in self._all:
                    worker.start_flush()  # scalars do not wait for videos
                self.recorder.close(max(timeout / 2, timeout - 5.0))
        finally:
            first = self._close_workers(status, timeout, deadline)
        if first:
            self._finite.raise_rejected()

    def deliveries(self) -> tuple[Delivery, ...]:
        """What has become of the records so far, backend by backend."""
        known = tuple(worker.delivery() for worker in self._workers)
        if (recorded := self._recorded()) is None:
            return known
        return tuple(
            dataclasses.replace(
                delivery, journaled=max(delivery.undelivered - recorded.undelivered, 0)
            )
            for delivery in known
        )

    def _recorded(self) -> Delivery | None:
        """What has become of the records in the journal; None if there is none."""
        if self._recording is None or self._journal is None:
            return None
        delivery = self._recording.delivery()
        unwritten = min(self._journal.unwritten, delivery.delivered)
        return dataclasses.replace(
            delivery,
            delivered=delivery.delivered - unwritten,
            undelivered=delivery.undelivered + unwritten,
        )

    # ---- records --------------------------------------------------------------------------------

    def _take(self, rows: Sequence[Row]) -> None:
        # Rows that were buffered on the device arrive at one time: the last one has the rate.
        # What was logged outside an iteration has an x axis of its own.
        last = {
            (row.lane, row.wall_time): index
            for index, row in enumerate(rows)
            if row.kind == "record" and row.iteration is not None
        }
        records = []
        for index, row in enumerate(rows):
            if row.kind == "start":
                if row.lane is None:  # of all lanes
                    self._newest.clear()
                self._newest[row.lane] = (row.step, row.wall_time)
            elif row.kind == "record":
                values = row.values
                if last.get((row.lane, row.wall_time)) == index:
                    values = {**values, **self._rate(row)}
                record = Scalars(row.step, values, row.iteration, row.lane, row.wall_time)
                records.append(record)
            elif row.kind == "video" and self.recorder is not None:
                self.recorder.submit(row)
        self._submit_scalars(records)

    def _rate(self, row: Row) -> dict[str, Scalar]:
        """The rate at which the row's lane has stepped since its last one, if that can be told."""
        known = self._newest.get(row.lane, self._newest.get(None))
        self._newest[row.lane] = (row.step, row.wall_time)
        if known is None or row.step <= known[0] or row.wall_time <= known[1]:
            return {}
        return {STEPS_PER_SECOND: (row.step - known[0]) / (row.wall_time - known[1])}

    def _submit_scalars(self, records: Sequence[Scalars]) -> None:
        records = self._transforms.apply(self.info, records)
        if self.aggregator is not None:
            records += self.aggregator.push(records)
        self._submit_checked(records)

    def _submit_checked(self, records: Sequence[Scalars]) -> None:
        self.newest_step = max([self.newest_step, *(record.step for record in records)])
        records = self._finite(records)
        if records:
            self._submit(calls.log_scalars(self._number, records))

    def _log(self, submit: Callable[[], None]) -> None:
        if self.closed:
            self._refuse()
        with self._lock:
            if not self._closed:
                return submit()
        return self._refuse()

    def _submit(self, call: Call) -> None:
        self._number = call.end
        for worker in self._all:
            worker.submit(call)

    # ---- the end --------------------------------------------------------------------------------

    def _close_workers(self, status: str, timeout: float, deadline: float) -> bool:
        """Whether this was the first call, which alone does anything."""
        with self._lock:
            first = not self._closed
            if first:
                self.release()
                if status == "finished":
                    self.lane_count.end(self._sequencers)
                if self._recording is not None:
                    self._recording.start_flush()
                for worker in self._workers:
                    worker.start_close(status)
                self._closed = True
        if not first:
            self._ended.wait(max(deadline - time.monotonic(), 0.0))
            return False
        try:
            hang = [not worker.join(deadline - time.monotonic()) for worker in self._workers]
            self._close_journal(status, timeout, deadline)
            for worker, delivery, hangs in zip(self._workers, self.deliveries(), hang, strict=True):
                self._report(worker, delivery, timeout, hangs=hangs)
        finally:
            self._ended.set()
        return True

    def _close_journal(self, status: str, timeout: float, deadline: float) -> None:
        """Comes last, as the other workers may still read in it."""
        if self._recording is None or self._journal is None:
            return
        self._recording.start_close(status)
        hangs = not self._recording.join(max(deadline - time.monotonic(), JOURNAL_SECONDS))
        if not hangs:
            self._journal.release()
        if (recorded := self._recorded()) is not None:
            self._report(self._recording, recorded, timeout, hangs=hangs)

    def _refuse(self) -> NoReturn:
        hold_if_terminating()  # holding no lock, as who closes the run may need it
        raise ClosedError(
            f"run `{self.info.name}` is closed: log before `close` (or inside the `with` block), "
            f"or construct a new callback"
        )

    def _report(self, worker: Worker, delivery: Delivery, timeout: float, *, hangs: bool) -> None:
        if not (delivery.undelivered or hangs or worker.needs_replay()):
            return
        remedy = ""
        if delivery.journaled or worker.needs_replay():
            directory = shlex.quote(str(self.info.directory))
            remedy = (
                f"; what is missing there is in the journal, and is sent by "
                f"`metriplex replay {directory} --to {shlex.quote(delivery.backend)}`"
            )
        logger.error(
            "run `%s`: %d of %d record(s) did not reach backend `%s`%s%s%s",
            self.info.name,
            delivery.undelivered,
            delivery.undelivered + delivery.delivered,
            delivery.backend,
            f", which was still busy after {timeout:g} s" if hangs else "",
            f"; its last error: {delivery.error}" if delivery.error is not None else "",
            remedy,
        )


def _ack(info: RunInfo, backend: Backend, start: int) -> Ack:
    """What a backend has acknowledged of the run before this process; nothing to one that is new.

    A new one gets what is logged from now on, and the rest by a replay.
    """
    ack = load_ack(info.directory, backend.name)
    if ack is None:
        ack = Ack(ack_path(info.directory, backend.name), start)
        ack.miss(0, start)
    return ack
