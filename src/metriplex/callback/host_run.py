"""The host side of a callback: the run that its handle stands for, and the order of closing it."""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, final

import jax

from metriplex.bridge import interrupts, receiver, registry
from metriplex.bridge.ring import report_lost, report_undrained, take_rows
from metriplex.bridge.stop import ABORTED
from metriplex.bridge.unsent import Unsent
from metriplex.cluster.run import is_written_here
from metriplex.errors import ClosedError, NonFiniteError
from metriplex.run import shutdown, signals

if TYPE_CHECKING:
    from metriplex.bridge.rows import Rows
    from metriplex.cluster.run import ClusterRun
    from metriplex.run.run import Run

logger = logging.getLogger("metriplex")

CLOSE_TIMEOUT = 30.0
"""Seconds that `flush` and `close` wait, unless the callback or the call says otherwise."""


@final
class HostRun:
    """A run with the handle that its rows carry; closed at the end of the process at the latest.

    Args:
        run: The run.
        handle: A handle that nothing else has; None for the next one of this process.
        buffer: Rows that a program keeps on the device.
        ring: True if programs keep their rows in a ring, from which `drain` takes them.
        close_timeout: Seconds that `flush` and `close` wait by default; None for no limit.

    Attributes:
        has_program: True if a program has the run's state, from which its rows have to be drained.
    """

    def __init__(
        self,
        run: Run | ClusterRun,
        handle: int | None = None,
        *,
        buffer: int,
        ring: bool,
        close_timeout: float | None,
    ) -> None:
        self.run = run
        longest = threading.TIMEOUT_MAX / 2
        self._close_timeout = longest if close_timeout is None else min(close_timeout, longest)
        self._ring = ring
        self._unsent = Unsent(0 if ring else buffer)
        self.has_program = False
        self._drained = False
        shutdown.watch()
        self.handle = receiver.register(self, handle, self.close)

    def discard(self) -> None:
        """Remove the handle; no program has it."""
        registry.remove(self.handle)

    @staticmethod
    def find(handle: int) -> HostRun | None:
        """Return the host run of a handle; None if it is closed and nothing refers to it."""
        entry = registry.get(handle)
        found = None if entry is None else entry.known()
        return found if isinstance(found, HostRun) else None

    def receive(self, rows: Rows) -> None:
        """Pass rows to the run. The receiver thread calls."""
        self._unsent.look(rows)
        self.run.receive(rows)

    def check_open(self) -> None:
        """Raise `ClosedError` if the run is closed."""
        if self.run.closed:
            signals.hold_if_terminating()
            raise ClosedError(
                f"run `{self.run.info.name}` is closed: construct a new `MetricsCallback` for "
                f"each run, and close it after its program has ended"
            )

    def drain(self, buffer: jax.Array, buffered: jax.Array) -> None:
        """Hand rows to the run, as for `take_rows`; waits for the program that makes them."""
        self._drained = True
        if is_written_here(self.run):
            blocks, lost = take_rows(buffer, buffered)
            receiver.deliver(blocks)
            self.run.release()
            report_lost(self.run.info.name, lost, buffer.shape[-2])

    def flush(self, timeout: float | None) -> None:
        """Wait for this thread's programs and for every backend."""
        receiver.barrier()
        self.run.release()
        self.run.flush(self._close_timeout if timeout is None else timeout)

    def close(self, status: str, running: bool = False, timeout: float | None = None) -> None:
        """Wait for this thread's programs, unless `running`, then for all rows; close the run.

        Raises `NonFiniteError` for rejected values, and the error of a failed program.
        """
        if timeout is None:
            timeout = min(self._close_timeout, CLOSE_TIMEOUT) if running else self._close_timeout
        try:
            if not running and not self.run.closed:
                _wait_for_programs(stop=status == "interrupted")
        except BaseException as error:
            if status == "finished":
                status = "interrupted" if is_interrupt(error) else "failed"
            raise
        finally:
            shutdown.call_uninterrupted(functools.partial(self._finish, status, timeout))

    def _finish(self, status: str, timeout: float) -> None:
        receiver.wait()
        registry.retire(self.handle, self.run.info.name, stopped=status == "interrupted")
        if self._ring and self.has_program and not self._drained and not self.run.closed:
            report_undrained(self.run.info.name)
        if status == "finished" and not self.run.closed:
            self._unsent.report(self.run.info.name)
        self.run.close(status, timeout)

    def close_after(self, error: BaseException | None) -> None:
        """Close the run at the end of a `with` block, which an exception may have ended.

        Ctrl-C that ended the block as an error of a compiled program becomes `KeyboardInterrupt`.
        Other errors of closing are raised only if the block has ended without one.
        """
        interrupted = is_interrupt(error)
        try:
            self.close("interrupted" if interrupted else "finished" if error is None else "failed")
        except NonFiniteError as rejected:
            if error is None or ABORTED in str(error):
                raise rejected from error
            logger.error("%s", rejected)  # noqa: TRY400 - the program's own error is the one to show
        except Exception:
            if error is None:
                raise
        if interrupted and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error


def _wait_for_programs(*, stop: bool) -> None:
    """Wait for the programs of this thread; Ctrl-C meanwhile has them `stop` at their next row."""
    if not stop:
        try:
            return receiver.barrier()
        except BaseException as error:
            if is_interrupt(error):
                _wait_for_programs(stop=True)
            raise
    with interrupts.stopping():
        try:
            receiver.barrier()
        except Exception as error:
            if not is_interrupt(error):
                raise


def is_interrupt(error: BaseException | None) -> bool:
    """Return True for Ctrl-C, which inside a host function is an error of the compiled program."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "KeyboardInterrupt" in str(error)
    return isinstance(error, KeyboardInterrupt)
