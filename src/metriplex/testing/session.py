"""Calling a backend's hooks in a test, as a run of metriplex calls them."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, final

from metriplex.delivery import calls
from metriplex.delivery.retry import retry
from metriplex.plugins.backends import Backend
from metriplex.records import Media, RunInfo, Scalar, Scalars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metriplex.delivery.calls import Call

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between the tries of a call that raised an `OSError`."""


@final
class Session:
    """One run of one backend: every hook is called from one thread, which is not the main one.

    A call that raises `OSError` is made again with the same arguments, some times; whatever else a
    hook raises is raised here. Closed by `end`, whatever the backend does.

    Attributes:
        run: The run.
        backend: The backend and its hooks.

    Args:
        plugin: What `BackendContract.make_backend` made.
        run: The run.
        timeout: Seconds after which a call counts as one that hangs.
    """

    def __init__(self, plugin: object, run: RunInfo, timeout: float) -> None:
        self.run = run
        self.backend = Backend("contract", plugin)
        self._timeout = timeout
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._work, name="metriplex-contract", daemon=True)
        self._thread.start()

    def open(self) -> Session:
        """Calls `open_run`; gives itself."""
        self.call(calls.open_run())
        return self

    def log(self, step: int, values: Mapping[str, Scalar], *, lane: int | None = None) -> None:
        """Logs one record in a call of its own."""
        self.scalars(Scalars(step, values, lane=lane, wall_time=time.time()))

    def scalars(self, *records: Scalars) -> None:
        """Logs records in one call."""
        self.call(calls.log_scalars(0, records))

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Logs hyper-parameters."""
        self.call(calls.log_hparams(0, hparams))

    def media(self, record: Media) -> None:
        """Logs a text, a clip, a picture, ..."""
        self.call(calls.log_media(0, record))

    def flush(self) -> None:
        """Calls `flush`."""
        self.call(calls.flush(0))

    def close(self, status: str = "finished") -> None:
        """Calls `close_run`; `end` has still to be called."""
        self.call(calls.close_run(0, status))

    def call(self, call: Call) -> None:
        """Call a hook and wait for it; do nothing if the backend doesn't have it.

        Args:
            call: The call.

        Raises:
            AssertionError: It hangs.
            BaseException: Whatever the hook raises.
        """
        made: Future[None] = Future()
        self._calls.put((lambda: self._call(call), made))
        try:
            made.result(self._timeout)
        except TimeoutError:
            if made.done():
                raise
            raise AssertionError(f"`{call.hook}` hangs for {self._timeout:g} s") from None

    def end(self) -> None:
        """Ends the thread; a call that hangs is left to itself."""
        self._calls.put(None)
        self._thread.join(self._timeout)

    def _call(self, call: Call) -> None:
        retry(
            lambda: self.backend.call(call, self.run),
            RETRY_SECONDS,
            lambda pause, _: time.sleep(pause),
        )

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, made = item
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                made.set_exception(error)
            else:
                made.set_result(None)
