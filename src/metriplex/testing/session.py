"""Call the hooks of a backend in a test like a run of metriplex does."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, final

from metriplex.plugins.backends import Backend
from metriplex.plugins.hookspecs import MEDIA_HOOKS
from metriplex.records import Media, RunInfo, Scalar, Scalars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between the tries of a call that raised an `OSError`, in seconds."""


@final
class Session:
    """One run of one backend: a worker thread calls every hook.

    A call that raises `OSError` is retried with the same arguments after each of `RETRY_SECONDS`;
    other exceptions of a hook are raised in the thread that calls the session. Call `end` at the
    end.

    Attributes:
        run: The run.
        backend: The backend and its hooks.

    Args:
        plugin: A backend of `BackendContract.make_backend`.
        run: The run.
        timeout: Seconds after which a call counts as hanging.
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
        """Call `open_run`, and return this session."""
        self.call("open_run")
        return self

    def log(self, step: int, values: Mapping[str, Scalar], *, lane: int | None = None) -> None:
        """Log one record of scalars in one call."""
        self.scalars(Scalars(step, values, lane=lane, wall_time=time.time()))

    def scalars(self, *records: Scalars) -> None:
        """Log records of scalars in one call."""
        self.call("log_scalars", records=records)

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Log hyper-parameters."""
        self.call("log_hparams", hparams=hparams)

    def media(self, record: Media) -> None:
        """Log a text, a video, an image, a histogram or an artifact."""
        hook, argument = MEDIA_HOOKS[type(record)]
        self.call(hook, **{argument: record})

    def flush(self) -> None:
        """Call `flush`."""
        self.call("flush")

    def close(self, status: str = "finished") -> None:
        """Call `close_run`; the thread runs until `end`."""
        self.call("close_run", status=status)

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook and wait for it; do nothing if the backend doesn't implement the hook.

        Args:
            hook: Name of a hook of `metriplex.plugins.hookspecs.BackendSpec`.
            **arguments: Arguments of the hook except `run`.

        Raises:
            AssertionError: The call hangs.
            BaseException: The exception that the hook raised.
        """
        made: Future[None] = Future()
        self._calls.put((lambda: self._call(hook, arguments), made))
        try:
            made.result(self._timeout)
        except TimeoutError:
            if made.done():
                raise
            raise AssertionError(f"`{hook}` hangs for {self._timeout:g} s") from None

    def end(self) -> None:
        """End the thread; abandon a call that hangs."""
        self._calls.put(None)
        self._thread.join(self._timeout)

    def _call(self, hook: str, arguments: Mapping[str, Any]) -> None:
        for pause in RETRY_SECONDS:
            try:
                return self.backend.call(hook, run=self.run, **arguments)
            except OSError:
                time.sleep(pause)
        return self.backend.call(hook, run=self.run, **arguments)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, made = item
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
                made.set_exception(error)
            else:
                made.set_result(None)
