"""The host side of one run: orders rows, checks values, and hands records to every backend."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import threading
import time
from typing import TYPE_CHECKING, NoReturn, Protocol, final

from metriplex.delivery import calls
from metriplex.errors import ClosedError
from metriplex.plugins.scalar_transforms import Transforms
from metriplex.records import Delivery, Media, RunInfo, Scalar, Scalars
from metriplex.run.carrying import CarryCheck
from metriplex.run.lanes import LaneCount
from metriplex.run.nonfinite import FiniteFilter, NonFinite, may_be_nan
from metriplex.run.rates import Rates
from metriplex.run.scalar_batch import ScalarBatch
from metriplex.run.signals import hold_if_terminating
from metriplex.run.streams import Streams
from metriplex.run.workers import start_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metriplex.bridge.rows import Row, Rows
    from metriplex.delivery.calls import Call
    from metriplex.delivery.run_journal import RunJournal
    from metriplex.delivery.worker import Worker
    from metriplex.plugins.backends import Backend
    from metriplex.run.aggregate import Aggregator
    from metriplex.run.background import BackgroundThread

logger = logging.getLogger("metriplex")

BACKGROUND_SECONDS = 5.0
"""Longest time that `close` waits for each background thread."""

JOURNAL_SECONDS = 2.0
"""Shortest time that `close` waits for the journal, also if backends have used up its timeout."""


class VideoRecorder(Protocol):
    """Makes videos of the rollouts that a run receives."""

    def submit(self, row: Row) -> None:
        """Take a rollout; return at once. The receiver thread calls."""

    def close(self, timeout: float) -> None:
        """Wait for the videos under way, `timeout` seconds at most. May be called again."""


@final
class Run:
    """The host side of one run.

    The receiver thread calls `receive`, and any thread the other methods. A lock keeps records of
    all threads in one order for all backends, and records are numbered in this order. Scalar
    transforms are the only hooks that are called under the lock.

    Args:
        info: The description of the run that backends get.
        backends: The backends to log to.
        transforms: Scalar transforms, which are applied first.
        nonfinite: As for `MetricsCallback`.
        queue_size: Records that may wait in memory for one backend.
        journal: Keeps records until every backend has them; None for no journal.
        aggregator: Computes statistics over lanes; None for none.
        make_recorder: Makes the video recorder, which logs by the function that it is given; None
            for no videos.
        background: Background threads, which `start` starts.
        in_parts: True if other processes may have some of the lanes.
        held: True to wait for `start` before a backend is called or the journal is written.
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
        aggregator: Aggregator | None = None,
        make_recorder: Callable[[Callable[[Media], None]], VideoRecorder] | None = None,
        background: Sequence[BackgroundThread] = (),
        in_parts: bool = False,
        held: bool = False,
    ) -> None:
        self.info = info
        self._transforms = transforms or Transforms()
        self._finite = FiniteFilter(info.name, nonfinite)
        self._number = 0 if journal is None else journal.start
        self._journal = journal
        self._streams = Streams(resumed=self._number > 0)
        self._rates = Rates()
        self._background = background
        self.newest_step = 0
        self._program_started = False
        self._lane_count = LaneCount(info, in_parts=in_parts)
        self._carry_check = CarryCheck(info.name)
        self._aggregator = aggregator
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._closed = False
        self._ended = threading.Event()
        self._begin = threading.Event()
        self._journal_worker: Worker | None = None
        self._all: list[Worker] = []
        self._workers: list[Worker] = []
        self.video_recorder: VideoRecorder | None = None
        try:
            if make_recorder is not None:
                self.video_recorder = make_recorder(self.log_media)
            start_workers(self._all, info, backends, journal, queue_size, self._begin)
            self._journal_worker = None if journal is None else self._all[0]
            self._workers = self._all[journal is not None :]
            if not held:
                self._begin_workers()
        except BaseException:
            self.discard()
            raise

    def start(self) -> None:
        """Start the background threads, which log by this run, and let the workers begin.

        Raises:
            RuntimeError: No thread can be started; `discard` the run.
            ConfigurationError: The journal can't be written; `discard` the run.
        """
        for thread in self._background:
            thread.start(self)
        self._begin_workers()

    def discard(self) -> None:
        """End every thread without a call of a backend, if the workers haven't begun."""
        self._closed = True
        for worker in self._all:
            worker.discard()
        self._begin.set()
        for thread in self._background:
            thread.close(BACKGROUND_SECONDS)
        if self.video_recorder is not None:
            self.video_recorder.close(0.0)
        for worker in self._all:
            worker.join(BACKGROUND_SECONDS)
        self._ended.set()

    def _begin_workers(self) -> None:
        if self._journal is not None and not self._begin.is_set():
            self._journal.begin()
            for worker in self._workers:
                worker.say_present()
        self._begin.set()

    @property
    def closed(self) -> bool:
        """True if nothing more can be logged; also in a forked child, which has no threads."""
        return self._closed or os.getpid() != self._process

    def receive(self, rows: Rows) -> None:
        """Take rows as they come from the device. The receiver thread calls."""
        if not self._program_started:
            self._program_started = True
            for thread in self._background:
                thread.program_started()
        with self._lock:
            self._lane_count.look(rows)
            self._carry_check.look(rows)
            if self._aggregator is not None and self._lane_count.here:
                self._aggregator.lanes = self._lane_count.here
            self._take(self._streams.push(rows))

    def release(self) -> None:
        """Pass on the rows that wait for earlier ones: the program has ended."""
        with self._lock:
            self._take(self._streams.release())
            if self._aggregator is not None:
                self._submit_checked(ScalarBatch.of(self._aggregator.release()))

    def log_scalars(
        self, step: int, values: Mapping[str, Scalar], wall_time: float | None = None
    ) -> None:
        """Log values that are on the host already. Raises `ClosedError` if the run is closed."""
        now = time.time() if wall_time is None else wall_time
        record = Scalars(step=step, values=dict(values), wall_time=now)
        self._log(lambda: self._submit_scalars(ScalarBatch.of([record])))

    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Log flat hyper-parameters. Raises `ClosedError` if the run is closed."""
        self._log(lambda: self._submit(calls.log_hparams(self._number, dict(hparams))))

    def log_media(self, record: Media) -> None:
        """Log a text, a clip, an image, ... Raises `ClosedError` if the run is closed."""
        self._log(lambda: self._submit(calls.log_media(self._number, record)))

    def flush(self, timeout: float) -> None:
        """Wait until every backend has flushed all earlier records, or `timeout` seconds.

        Raises `NonFiniteError` if values were rejected since the last `flush`.
        """
        if self.closed:
            self._refuse()
        deadline = time.monotonic() + timeout
        for done in [worker.start_flush() for worker in self._all]:
            done.wait(max(deadline - time.monotonic(), 0.0))
        self._finite.raise_rejected()

    def close(self, status: str, timeout: float) -> None:
        """Deliver queued records, close every backend, and report records that were not delivered.

        Calling it again only waits for the first call to end. A backend that hangs is abandoned
        after `timeout` seconds. Raises `NonFiniteError` as `flush` does.
        """
        if os.getpid() != self._process:
            return
        deadline = time.monotonic() + timeout
        try:
            for thread in self._background:
                thread.close(min(timeout / 4, BACKGROUND_SECONDS))
            if self.video_recorder is not None and not self._closed:
                for worker in self._all:
                    worker.start_flush()  # scalars do not wait for videos
                self.video_recorder.close(max(timeout / 2, timeout - 5.0))
        finally:
            first = self._close_workers(status, timeout, deadline)
        if first:
            self._finite.report_rejected()
            self._finite.raise_rejected()

    def deliveries(self) -> tuple[Delivery, ...]:
        """Return for each backend the number of records delivered and not delivered so far."""
        known = tuple(worker.delivery() for worker in self._workers)
        if self._journal_worker is None:
            return known
        unwritten = self._journal_worker.delivery().undelivered
        return tuple(
            dataclasses.replace(delivery, journaled=max(delivery.undelivered - unwritten, 0))
            for delivery in known
        )

    # ---- records --------------------------------------------------------------------------------

    def _take(self, rows: Rows) -> None:
        if self.video_recorder is not None:
            for row in rows.take(rows.of_kind("video")):
                self.video_recorder.submit(row)
        self._submit_scalars(ScalarBatch.of_rows(rows, self._rates.push(rows), may_be_nan))

    def _submit_scalars(self, batch: ScalarBatch) -> None:
        if self._transforms:
            batch = ScalarBatch.of(self._transforms.apply(self.info, batch.records))
        self._submit_checked(batch)
        if self._aggregator is not None:
            self._submit_checked(ScalarBatch.of(self._aggregator.push(batch.columns())))

    def _submit_checked(self, batch: ScalarBatch) -> None:
        self.newest_step = max(self.newest_step, batch.newest_step)
        records = self._finite(batch)
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
        """Close the workers; return True for the first call, which alone does anything."""
        with self._lock:
            first = not self._closed
            if first:
                self.release()
                if status == "finished":
                    self._lane_count.end(self._streams.lanes)
                if self._journal_worker is not None:
                    self._journal_worker.start_flush()
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
        """Close the journal, after the other workers, which read it."""
        if self._journal_worker is None or self._journal is None:
            return
        self._journal_worker.start_close(status)
        hangs = not self._journal_worker.join(max(deadline - time.monotonic(), JOURNAL_SECONDS))
        if not hangs:
            self._journal.release()
        self._report(self._journal_worker, self._journal_worker.delivery(), timeout, hangs=hangs)

    def _refuse(self) -> NoReturn:
        hold_if_terminating()  # without a lock, which closing the run may need
        raise ClosedError(
            f"run `{self.info.name}` is closed: log before `close` (or inside the `with` block), "
            f"or construct a new callback"
        )

    def _report(self, worker: Worker, delivery: Delivery, timeout: float, *, hangs: bool) -> None:
        earlier = not delivery.undelivered and worker.needs_replay()
        if not (delivery.undelivered or hangs or earlier):
            return
        if earlier and not hangs:
            what = "records of an earlier process"
        else:
            what = (
                f"{delivery.undelivered} of {delivery.undelivered + delivery.delivered} record(s)"
            )
        remedy = ""
        if delivery.journaled or worker.needs_replay():
            directory = shlex.quote(str(self.info.directory))
            remedy = (
                f"; what is missing there is in the journal, and is sent by "
                f"`metriplex replay {directory} --to {shlex.quote(delivery.backend)}`"
            )
        logger.error(
            "run `%s`: %s did not reach backend `%s`%s%s%s",
            self.info.name,
            what,
            delivery.backend,
            f", which was still busy after {timeout:g} s" if hangs else "",
            f"; its last error: {delivery.error}" if delivery.error is not None else "",
            remedy,
        )
