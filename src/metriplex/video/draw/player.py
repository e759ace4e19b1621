"""Play rollouts of environments that can't be traced, on the host."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from metriplex.bridge.rows import Row
    from metriplex.video.play.payloads import Payload

_BACKLOG = 2
"""Rollouts that may wait; each holds the parameters of a policy."""

_GRACE_SECONDS = 5.0
"""Seconds for which `close` waits for the current step after its timeout."""


@final
class _Rollout(NamedTuple):
    """A rollout that waits to be played."""

    row: Row
    payload: Payload
    arrays: Sequence[np.ndarray]


@final
class Player:
    """Play rollouts one after another, on a thread that starts with the first rollout.

    Args:
        on_states: Called with the row and the selected states of a rollout, on the thread.
        warn: Called with iteration, step and reason if a rollout is dropped or fails.
    """

    def __init__(
        self,
        on_states: Callable[[Row, Sequence[Any]], None],
        warn: Callable[[int | None, int, str], None],
    ) -> None:
        self._on_states = on_states
        self._warn = warn
        self._waiting: collections.deque[_Rollout] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, row: Row, payload: Payload, arrays: Sequence[np.ndarray]) -> None:
        """Queue a rollout and return at once; a full queue drops its oldest, with a warning."""
        dropped = None
        with self._changed:
            if self._closing:
                dropped = row
            else:
                self._waiting.append(_Rollout(row, payload, arrays))
                if len(self._waiting) > _BACKLOG:
                    dropped = self._waiting.popleft().row
                self._changed.notify_all()
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._work, name="metriplex-player", daemon=True
                    )
                    self._thread.start()
        if dropped is not None:
            reason = "the run is closed" if self._closing else "playing takes longer than training"
            self._warn(dropped.iteration, dropped.step, f"its rollout was dropped, as {reason}")

    def close(self, timeout: float) -> None:
        """Wait for the queued rollouts, at most `timeout` seconds, and end the thread.

        May be called again.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout)
        self._stopped.set()
        thread.join(min(_GRACE_SECONDS, timeout))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                rollout = self._waiting.popleft()
            try:
                states = self._play(rollout)
            except Exception as error:  # noqa: BLE001 - an environment may raise anything
                reason = f"the rollout raised `{type(error).__name__}: {error}`"
                self._warn(rollout.row.iteration, rollout.row.step, reason)
            else:
                self._on_states(rollout.row, states)

    def _play(self, rollout: _Rollout) -> list[Any]:
        states = []
        for state in rollout.payload.selected(rollout.arrays):
            if self._stopped.is_set():
                raise TimeoutError("the run was closed before it was played")
            states.append(state)
        return states
