"""The half of a callback that belongs to the host: it opens, flushes and closes the run."""

from __future__ import annotations

import abc
import functools
import logging
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metriplex.bridge import receiver
from metriplex.bridge.emit import ABORTED
from metriplex.bridge.ring import (
    expect_drain,
    note_drain,
    note_program,
    report_lost,
    report_undrained,
    take_rows,
)
from metriplex.bridge.tracing import is_tracing
from metriplex.callback.media_methods import MediaLogger
from metriplex.cluster.run import is_written_here
from metriplex.device import state as device
from metriplex.device.checks import check_state
from metriplex.device.training_log import flatten
from metriplex.errors import ClosedError, LoggingError, MetriplexError, NonFiniteError
from metriplex.run import shutdown
from metriplex.run.hparams import check_hparams, flatten_hparams
from metriplex.validation import check_step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from metriplex.cluster.run import ClusterRun
    from metriplex.device.config import Config
    from metriplex.device.state import MetricsState
    from metriplex.records import Delivery
    from metriplex.run.run import Run
    from metriplex.video.play.program import VideoProgram

logger = logging.getLogger("metriplex")

CLOSE_TIMEOUT = 30.0
"""Seconds that `flush` and `close` wait for backends, unless told otherwise."""

_runs: weakref.WeakValueDictionary[int, Run | ClusterRun] = weakref.WeakValueDictionary()


class RunOwner(MediaLogger, abc.ABC):
    """Holds a run handle, and on the host the run itself."""

    __slots__ = ("__weakref__", "_config", "_handle", "_run", "_video")

    _config: Config
    _video: VideoProgram | None
    _handle: Any
    _run: Run | ClusterRun | None

    def _open(self, run: Run | ClusterRun, handle: int | None = None) -> None:
        """Takes the run, and sees to it that it is closed at the end of the process."""
        handle = receiver.register(run, handle)
        self._handle = np.int32(handle)
        self._run = run
        _runs[handle] = run
        if self._config.ring:
            expect_drain(handle)
        shutdown.watch(handle, functools.partial(_close, handle, run))

    @property
    def run(self) -> Run | ClusterRun:
        """The host side of the run: `run.info` has its name and directory.

        Raises:
            MetriplexError: Inside a compiled function, where the run is not known.
            ClosedError: The run was closed and is gone.
        """
        if isinstance(self._handle, Tracer):
            raise MetriplexError(
                "a method of `MetricsCallback` that belongs to the host was called inside a "
                "compiled function: call it outside (inside, call `on_step`, `on_iteration`, "
                "`log`)"
            )
        run = self._known_run()
        if run is None:
            raise ClosedError(
                f"the run with handle {int(self._handle)} is closed: construct a new callback"
            )
        return run

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.run.info.directory

    def log_hparams(self, hparams: object, *, mask_secrets: bool = True) -> None:
        """Logs hyper-parameters, outside of compiled functions.

        Args:
            hparams: As for the constructor; nested names are joined by `/`.
            mask_secrets: Whether those that are named as secrets are (`api_key`, ...) become `***`.

        Raises:
            LoggingError: `hparams` is neither, or a name is not a string.
            ClosedError: The run is closed.
        """
        flat = flatten_hparams(check_hparams(hparams), mask_secrets=mask_secrets)
        self._host_run("log_hparams").log_hparams(flat)

    def log(self, step: jax.typing.ArrayLike, values: Mapping[str, Any]) -> None:
        """Logs scalars at a step of the caller's own: from a Python loop, or inside compiled code.

        Outside of compiled code they are logged at once, so before what programs that are still
        running log; call `flush` first where that order matters.

        Args:
            step: Environment steps taken so far, or whatever the x axis is; not negative.
            values: Scalars by tag; may be nested, joined by `/`.

        Raises:
            LoggingError: A value can't be logged, or the step is no integer.
            ClosedError: The run is closed.
        """
        self._check_open()
        flat = flatten(values, prefix="", reduce=self._config.reduce)
        if is_tracing():
            if self._config.ring:
                raise LoggingError(
                    '`log` inside of compiled code calls the host, which `transport="drain"` never '
                    "does: log it by `on_iteration(training_log=)`, or outside"
                )
            device.log(self.handle, step, flat)
        else:
            scalars = {tag: np.asarray(value).item() for tag, value in flat.items()}
            self.run.log_scalars(check_step(step), scalars)

    def drain(self, state: MetricsState) -> MetricsState:
        """Takes the records out of the state, between two programs, with `transport="drain"`.

        Waits for the program that makes the state. What was logged since the last call is handed to
        the backends in order; records beyond the newest `buffer` of a lane are lost, and reported.

        Args:
            state: The state as the program returned it; of vmapped programs with all its lanes.

        Returns:
            The state to go on with.

        Raises:
            LoggingError: The callback has another transport, or the state is not of `init`.
            ClosedError: The run is closed.
        """
        run = self._host_run("drain")
        self._check_open()
        check_state(self._config, state)
        if not self._config.ring:
            raise LoggingError(
                '`drain` takes records out of the state, where only `transport="drain"` keeps '
                "them: construct the callback with it, or don't call `drain`"
            )
        note_drain(int(self._handle))
        if is_written_here(run):
            blocks, lost = take_rows(state.buffer, state.buffered)
            receiver.deliver(blocks)
            run.release()
            report_lost(run.info.name, lost, self._config.buffer)
        return replace(state, buffered=state.buffered * 0)  # keeps its sharding

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Waits until what this thread's programs log has reached every backend, and is durable.

        Args:
            timeout: Seconds after which slow backends are no longer waited for.

        Raises:
            NonFiniteError: Values were rejected since the last `flush`.
            ClosedError: The run is closed.
        """
        run = self._host_run("flush")
        receiver.barrier()
        run.release()
        run.flush(timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Waits for this thread's programs, delivers everything, and closes the backends.

        Calling it again does nothing. A thread whose programs log has to wait for them itself
        (`jax.effects_barrier`), if it isn't the one that closes.

        Args:
            timeout: Seconds after which a backend that is still busy is given up; how many records
                it missed is logged, and told by `deliveries`.

        Raises:
            NonFiniteError: Values were rejected since the last `flush`.
            Exception: What a failed program of this thread raises.
        """
        self._require_host("close")
        run = self._known_run()
        if run is None:  # it was closed so long ago that nobody remembers it
            return
        _close(int(self._handle), run, "finished", running=False, timeout=timeout)

    def deliveries(self) -> tuple[Delivery, ...]:
        """For each backend, how many records it was given and how many it missed."""
        return self.run.deliveries()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copied train state logs to the same run

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise MetriplexError(
            f"{self!r} is an open run of this process and can't be pickled: leave it out of the "
            f"checkpoint, and construct a new callback where that is read"
        )

    def __enter__(self) -> Self:
        self._host_run("with")
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interrupted = _is_interrupt(error)
        status = "interrupted" if interrupted else "finished" if error is None else "failed"
        try:
            _close(int(self._handle), self.run, status, running=False)
        except NonFiniteError as rejected:
            if error is None or ABORTED in str(error):
                raise rejected from error
            logger.error("%s", rejected)  # noqa: TRY400 - the program's own error is the one to show
        except Exception:
            if error is None:
                raise
        if interrupted and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error

    def __repr__(self) -> str:
        run = self._known_run()
        return "MetricsCallback(<traced>)" if run is None else f"MetricsCallback({run.info.name!r})"

    @property
    def handle(self) -> jax.Array:
        """The run handle, int32 `[]`, as rows carry it; for integrations."""
        return jnp.asarray(self._handle, jnp.int32)

    def _known_run(self) -> Run | ClusterRun | None:
        """The run, unless this is traced, or it is closed and gone."""
        if self._run is not None or isinstance(self._handle, Tracer):
            return self._run
        is_number = isinstance(self._handle, int | np.ndarray | np.integer | jax.Array)
        return _runs.get(int(self._handle)) if is_number else None

    def _note_program(self) -> None:
        """Remembers that there is a state, which has to be drained."""
        if self._config.ring and self._run is not None:
            note_program(int(self._handle))

    def _require_host(self, method: str) -> None:
        """Refuses what would happen once while a program is traced, and then never again."""
        if is_tracing():
            raise MetriplexError(
                f"`{method}` belongs to the host and was called inside a function that jax "
                f"transforms: call it outside (inside, call `on_step`, `on_iteration`, `log`)"
            )

    def _host_run(self, method: str) -> Run | ClusterRun:
        self._require_host(method)
        return self.run

    def _check_open(self) -> None:
        """Refuses to trace for a run that is known here and closed."""
        if self._run is not None and self._run.closed:
            shutdown.hold_if_terminating()
            raise ClosedError(
                f"run `{self._run.info.name}` is closed: construct a new `MetricsCallback` for "
                f"each run, and close it after its program has ended"
            )


def _close(
    handle: int, run: Run | ClusterRun, status: str, running: bool, timeout: float = CLOSE_TIMEOUT
) -> None:
    try:
        if not running and not run.closed:
            receiver.barrier()
    except BaseException as error:
        if status == "finished":
            status = "interrupted" if _is_interrupt(error) else "failed"
        raise
    finally:
        receiver.wait()
        receiver.unregister(handle, run.info.name)
        shutdown.unwatch(handle)
        if not run.closed:
            report_undrained(handle, run.info.name)
        run.close(status, timeout)


def _is_interrupt(error: BaseException | None) -> bool:
    """Ctrl-C inside a host function surfaces as an error of the compiled program."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "KeyboardInterrupt" in str(error)
    return isinstance(error, KeyboardInterrupt)
