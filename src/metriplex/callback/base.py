"""The state of a callback, and the way to the host run that its handle stands for."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metriplex.bridge.execution import draw
from metriplex.bridge.numbers import fresh
from metriplex.bridge.strictness import own_rules
from metriplex.bridge.tracing import is_tracing
from metriplex.callback.host_run import HostRun
from metriplex.device.axes import manual_axes
from metriplex.errors import ClosedError, MetriplexError

if TYPE_CHECKING:
    from metriplex.device.config import Config
    from metriplex.video.play.program import VideoProgram


class CallbackBase(abc.ABC):
    """The base of the classes that hold a callback's methods."""

    __slots__ = ("__weakref__", "_config", "_handle", "_host", "_video")

    _config: Config
    _video: VideoProgram | None
    _handle: Any
    _host: HostRun | None  # None for a copy that jax makes, which finds it by the handle

    @property
    def handle(self) -> jax.Array:
        """The run handle and the number of the dispatch, int32 `[2]`, as rows carry them."""
        handle = self._handle
        # A program without host calls has to be the same in each process, to be found in a cache.
        if isinstance(handle, np.ndarray) and not (self._config.ring and is_tracing()):
            handle = fresh(handle, traced=is_tracing())
        if isinstance(handle, np.ndarray) and is_tracing():
            return jnp.stack([*handle])  # of scalars: an array would be a captured constant
        return jnp.asarray(handle, jnp.int32)

    def _execution(self) -> jax.Array:
        """Return the number of this execution, int32 `[]`; that of the dispatch if it is known."""
        if isinstance(self._handle, Tracer):
            return self._handle[1]
        return draw(
            on_host=not self._config.ring and not manual_axes(), transport=self._config.calls
        )

    @property
    def config(self) -> Config:
        """The arguments of the constructor that shape the compiled program."""
        return self._config

    @property
    def video(self) -> VideoProgram | None:
        """The program that plays and sends evaluation rollouts; None without videos."""
        return self._video

    def _known_host(self) -> HostRun | None:
        """Return the host run; None in traced code, or if the run is closed and gone."""
        if self._host is not None or isinstance(self._handle, Tracer):
            return self._host
        if not isinstance(self._handle, np.ndarray | jax.Array):
            return None
        with own_rules():
            return HostRun.find(int(self._handle[0]))

    def _host_run(self, method: str | None = None) -> HostRun:
        """Return the host run; raise an error in traced code, or if the run is closed and gone.

        `method` names a method that may not be called while jax traces any function.
        """
        if method is not None and is_tracing():
            raise MetriplexError(
                f"`{method}` belongs to the host and was called inside a function that jax "
                f"transforms: call it outside (inside, call `on_step`, `on_iteration`, `log`)"
            )
        if isinstance(self._handle, Tracer):
            raise MetriplexError(
                "a method of `MetricsCallback` that belongs to the host was called inside a "
                "compiled function: call it outside (inside, call `on_step`, `on_iteration`, "
                "`log`)"
            )
        host = self._known_host()
        if host is None:
            raise ClosedError(
                f"the run with handle {int(self._handle[0])} is closed: construct a new callback"
            )
        return host

    def _check_open(self) -> None:
        """Raise `ClosedError` if the run is known here and closed: nothing is traced for it."""
        if self._host is not None:
            self._host.check_open()

    def _note_program(self) -> None:
        """Note that a program gets the run's state, from which rows may have to be drained."""
        if self._host is not None:
            self._host.has_program = True
