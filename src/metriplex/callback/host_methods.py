"""The methods of a callback that the host calls outside of compiled functions."""

from __future__ import annotations

import abc
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from metriplex.bridge.strictness import under_own_rules
from metriplex.callback.base import CallbackBase
from metriplex.device.checks import check_state
from metriplex.errors import ClosedError, LoggingError
from metriplex.run.hparams import check_hparams, flatten_hparams

if TYPE_CHECKING:
    from pathlib import Path

    from metriplex.cluster.run import ClusterRun
    from metriplex.device.state import MetricsState
    from metriplex.records import Delivery
    from metriplex.run.run import Run


class HostMethods(CallbackBase, abc.ABC):
    """Methods for the life of a run."""

    __slots__ = ()

    @property
    def run(self) -> Run | ClusterRun:
        """The host side of the run: `run.info` has its name and directory.

        Raises:
            MetriplexError: Inside a compiled function, where the run is not known.
            ClosedError: The run was closed and is gone.
        """
        return self._host_run().run

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.run.info.directory

    def log_hparams(self, hparams: object, *, mask_secrets: bool = True) -> None:
        """Log hyper-parameters, outside of compiled functions.

        Args:
            hparams: As for the constructor; nested names are joined by `/`.
            mask_secrets: True to replace values with secret names (`api_key`, ...) by `***`.

        Raises:
            LoggingError: `hparams` has no names for its values, or a name is not a string.
            ClosedError: The run is closed.
        """
        flat = flatten_hparams(check_hparams(hparams), mask_secrets=mask_secrets)
        self._host_run("log_hparams").run.log_hparams(flat)

    @under_own_rules
    def drain(self, state: MetricsState) -> MetricsState:
        """Take the records out of the state, between two programs, with `transport="drain"`.

        Waits for the program that makes the state. Records since the last call reach the backends
        in order; records beyond the newest `buffer` of a lane are lost, and reported in the log.

        Args:
            state: The state as the program returned it; of vmapped programs with all its lanes.

        Returns:
            The state to continue with.

        Raises:
            LoggingError: The callback has another transport, or the state is not of `init`.
            ClosedError: The run is closed.
        """
        host = self._host_run("drain")
        host.check_open()
        check_state(self.config, state)
        if not self.config.ring:
            raise LoggingError(
                '`drain` takes records out of the state, where only `transport="drain"` keeps '
                "them: construct the callback with it, or don't call `drain`"
            )
        host.drain(state.buffer, state.buffered)
        return replace(state, buffered=state.buffered * 0)  # keeps its sharding

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every record of this thread's programs is durable in every backend.

        Args:
            timeout: Seconds after which slow backends are no longer waited for; None for the
                callback's `close_timeout`.

        Raises:
            NonFiniteError: Values were rejected since the last `flush`.
            ClosedError: The run is closed.
        """
        self._host_run("flush").flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Wait for this thread's programs, deliver every record, and close the backends.

        Calling it again does nothing. A thread whose programs log has to wait for them itself
        (`jax.effects_barrier`), if another thread closes.

        Args:
            timeout: Seconds after which a backend that is still busy is abandoned, and videos that
                are not drawn yet; the number of records that did not reach it is logged, and
                returned by `deliveries`. None for the callback's `close_timeout`.

        Raises:
            NonFiniteError: Values were rejected since the last `flush`.
            Exception: The error of a failed program of this thread.
        """
        try:
            host = self._host_run("close")
        except ClosedError:  # it was closed and nothing refers to it any more
            return
        host.close("finished", timeout=timeout)

    def deliveries(self) -> tuple[Delivery, ...]:
        """Return for each backend the number of records delivered and not delivered."""
        return self.run.deliveries()

    def __enter__(self) -> Self:
        self._host_run("with").check_open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._host_run().close_after(error)
