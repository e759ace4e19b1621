"""Plays on the host the rollouts of environments that can't be traced."""

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
"""Rollouts that may wait, each with the parameters of a policy."""

_GRACE_SECONDS = 5.0
"""How long `close` waits for the step that is being played when it gives up."""


@final
class _Task(NamedTuple):
    row: Row
    payload: Payload
    arrays: Sequence[np.ndarray]


@final
class Player:
    """One thread that plays rollouts one after another; started when there is a first one.

    Args:
        on_frames: Called with the row and the selected states of a rollout, from the thread.
        warn: Called with iteration, step and reason when there will be none.
    """

    def __init__(
        self,
        on_frames: Callable[[Row, Sequence[Any]], None],
        warn: Callable[[int | None, int, str], None],
    ) -> None:
        self._on_frames = on_frames
        self._warn = warn
        self._waiting: collections.deque[_Task] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, row: Row, payload: Payload, arrays: Sequence[np.ndarray]) -> None:
        """Takes a rollout; returns at once. Of too many the oldest is dropped, with a warning."""
        dropped = None
        with self._changed:
            if self._closing:
                dropped = row
            else:
                self._waiting.append(_Task(row, payload, arrays))
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
        """Waits for the rollouts under way, `timeout` seconds at most, and ends the thread.

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
                task = self._waiting.popleft()
            try:
                frames = self._play(task)
            except Exception as error:  # noqa: BLE001 - an environment may raise anything
                reason = f"the rollout raised `{type(error).__name__}: {error}`"
                self._warn(task.row.iteration, task.row.step, reason)
            else:
                self._on_frames(task.row, frames)

    def _play(self, task: _Task) -> list[Any]:
        frames = []
        for frame in task.payload.frames(task.arrays):
            if self._stopped.is_set():
                raise TimeoutError("the run was closed before it was played")
            frames.append(frame)
        return frames
