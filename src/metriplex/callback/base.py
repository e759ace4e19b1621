"""The interface between a callback and the classes that hold its methods."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

    from metriplex.callback.host_run import HostRun
    from metriplex.device.config import Config
    from metriplex.video.play.program import VideoProgram


class CallbackBase(abc.ABC):
    """Base of the classes that hold a callback's methods, which keep no state of their own."""

    __slots__ = ()

    @property
    @abc.abstractmethod
    def handle(self) -> jax.Array:
        """The run handle, int32 `[]`, as rows carry it."""

    @property
    @abc.abstractmethod
    def config(self) -> Config:
        """The arguments of the constructor that shape the compiled program."""

    @property
    @abc.abstractmethod
    def video(self) -> VideoProgram | None:
        """The program that plays and sends evaluation rollouts; None without videos."""

    @abc.abstractmethod
    def _host_run(self, method: str | None = None) -> HostRun:
        """Return the host run.

        Args:
            method: Name of a method that may not be called while jax traces a function; None for a
                method that may.

        Raises:
            MetriplexError: The method, or the callback itself, is traced.
            ClosedError: The run was closed and is gone.
        """

    @abc.abstractmethod
    def _check_open(self) -> None:
        """Raise `ClosedError` if the run is known here and closed: nothing is traced for it."""

    @abc.abstractmethod
    def _note_program(self) -> None:
        """Note that a program gets the run's state, from which rows may have to be drained."""
