"""Call the hooks of a backend in a test like a run of metriplex does."""

from __future__ import annotations

import functools
import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, final

from metriplex.delivery import calls
from metriplex.delivery.retry import retry
from metriplex.plugins.backends import Backend
from metriplex.records import Media, RunInfo, Scalar, Scalars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metriplex.delivery.calls import Call

    _Item: TypeAlias = tuple[Callable[[], Any], Future[Any]]

_T = TypeVar("_T")

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between the tries of a call that raised an `OSError`, in seconds."""


@final
class Session:
    """One run of one backend: a worker thread calls every hook.

    A call that raises `OSError` is retried with the same arguments after each of `RETRY_SECONDS`;
    other exceptions of a hook are raised in the thread that calls the session. A call counts as
    hanging after `timeout` seconds. Call `end` at the end.
    """

    def __init__(self, plugin: object, run: RunInfo, timeout: float) -> None:
        self.run = run
        self.backend = Backend("contract", plugin)
        self._timeout = timeout
        self._calls: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="metriplex-contract", daemon=True)
        self._thread.start()

    def open(self) -> Session:
        """Call `open_run`, and return this session."""
        self.call(calls.open_run())
        return self

    def log(self, step: int, values: Mapping[str, Scalar], *, lane: int | None = None) -> None:
        """Log one record of scalars in one call."""
        self.scalars(Scalars(step, values, lane=lane, wall_time=time.time()))

    def scalars(self, *records: Scalars) -> None:
        """Log records of scalars in one call."""
        self.call(calls.log_scalars(0, records))

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Log hyper-parameters."""
        self.call(calls.log_hparams(0, hparams))

    def media(self, record: Media) -> None:
        """Log a text, a video, an image, a histogram or an artifact."""
        self.call(calls.log_media(0, record))

    def flush(self) -> None:
        """Call `flush`."""
        self.call(calls.flush(0))

    def close(self, status: str = "finished") -> None:
        """Call `close_run`; the thread runs until `end`."""
        self.call(calls.close_run(0, status))

    def call(self, call: Call) -> None:
        """Call a hook and wait for it; do nothing if the backend doesn't implement the hook.

        Raises:
            AssertionError: The call hangs.
            BaseException: The exception that the hook raised.
        """
        hook = functools.partial(self.backend.call, call, self.run)
        self.inside(
            lambda: retry(hook, RETRY_SECONDS, lambda pause, _: time.sleep(pause)), call.hook
        )

    def attempt(self, call: Call) -> OSError | None:
        """Call a hook once, and return the `OSError` that it raised, if any.

        Raises:
            AssertionError: The call hangs.
            BaseException: The hook raised another exception.
        """
        try:
            self.inside(functools.partial(self.backend.call, call, self.run), call.hook)
        except OSError as error:
            return error
        return None

    def inside(self, function: Callable[[], _T], name: str) -> _T:
        """Call a function in the worker thread, and return its result.

        Raises:
            AssertionError: The call hangs; `name` says which one.
            BaseException: The exception that the function raised.
        """
        made: Future[Any] = Future()
        self._calls.put((function, made))
        try:
            return made.result(self._timeout)
        except TimeoutError:
            if made.done():
                raise
            raise AssertionError(f"`{name}` hangs for {self._timeout:g} s") from None

    def end(self) -> None:
        """End the thread; abandon a call that hangs."""
        self._calls.put(None)
        self._thread.join(self._timeout)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            function, made = item
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
                made.set_exception(error)
            else:
                made.set_result(result)
