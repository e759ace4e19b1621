"""Let the processes of `jax.distributed` agree on a run and on the process that writes it.

The writing process is unknown before the program runs: rows reach the process that owns the first
device of the program's mesh. The processes share keys and values through the coordination service
of `jax.distributed`, which needs no device and no program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jax

from metriplex.errors import ConfigurationError
from metriplex.records import Lane, RunInfo
from metriplex.run.opening import Place

if TYPE_CHECKING:
    from collections.abc import Callable

JOIN_SECONDS = 300.0
"""Seconds that a process waits for process 0 to construct the same callback."""

FIRST_HANDLE = 2**30
"""First handle of runs of several processes, above all handles that one process assigns alone."""

_numbers = itertools.count()


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """The processes of `jax.distributed` that share one run.

    Attributes:
        process: Index of this process.
        size: Number of processes.
        number: Number of shared runs before this one.
        client: Client of jax's coordination service.
    """

    process: int
    size: int
    number: int
    client: Any

    @property
    def handle(self) -> int:
        """Handle of the run, the same in every process."""
        return FIRST_HANDLE + self.number

    def gather(self) -> None:
        """Wait in process 0 until all processes call this method, `JOIN_SECONDS` at most."""
        if self.process == 0:
            self.wait(0, JOIN_SECONDS)
        else:
            self.arrive(0)

    def agree(self, find: Callable[[], tuple[RunInfo, Place]]) -> tuple[RunInfo, Place]:
        """Return the run that process 0 finds, in every process; only process 0 calls `find`.

        If `find` raises there, or process 0 doesn't construct the run within `JOIN_SECONDS`, the
        other processes raise `ConfigurationError`.
        """
        key = self._key("run")
        if self.process == 0:
            try:
                info, place = find()
            except Exception as error:
                self.client.key_value_set(key, json.dumps({"error": str(error)}))
                raise
            self.client.key_value_set(key, _encode(info, place))
            return info, place
        try:
            answer = self.client.blocking_key_value_get(key, int(JOIN_SECONDS * 1e3))
        except jax.errors.JaxRuntimeError as error:
            raise ConfigurationError(
                f"process {self.process} has constructed `MetricsCallback` number "
                f"{self.number + 1} and process 0 has not, in {JOIN_SECONDS:g} s: construct "
                f"the same callbacks in every process, in the same order"
            ) from error
        return _decode(json.loads(answer))

    def claim(self) -> int | None:
        """Return the process that writes the run: this process, if it is the first to claim it.

        Returns None if the coordination service can't be reached.
        """
        try:
            self.client.key_value_set(self._key("writer"), str(self.process))
        except jax.errors.JaxRuntimeError:
            return self.writer()
        return self.process

    def writer(self) -> int | None:
        """Return the process that writes the run; None if no process has claimed it."""
        try:
            return int(self.client.key_value_try_get(self._key("writer")))
        except jax.errors.JaxRuntimeError:
            return None

    def arrive(self, turn: int) -> None:
        """Report to process 0 that this process has claimed the rows it got before `turn`."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.client.key_value_set(self._key(f"turn/{turn}/{self.process}"), "")

    def wait(self, turn: int, timeout: float) -> None:
        """Wait until all other processes have arrived at `turn`, `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            for process in range(self.size):
                if process != self.process:
                    left = max(int((deadline - time.monotonic()) * 1e3), 1)
                    self.client.blocking_key_value_get(self._key(f"turn/{turn}/{process}"), left)

    def _key(self, name: str) -> str:
        return f"metriplex/{self.number}/{name}"


def join_cluster(*, abort: bool) -> Cluster | None:
    """Return the cluster if `jax.distributed` runs several processes, else None.

    Every process must call this function. Raises `ConfigurationError` for `abort`, a run that stops
    its program from the host, as that would hang the other processes.
    """
    if not jax.distributed.is_initialized():
        return None
    from jax._src import distributed  # the public API has collectives only

    state = distributed.global_state
    size = state.num_processes or 1
    if size == 1:
        return None
    if abort:
        raise ConfigurationError(
            '`nonfinite="abort"` stops one process, for which the others would wait forever: with '
            'several processes use `"error"`'
        )
    return Cluster(state.process_id, size, next(_numbers), state.client)


def _encode(info: RunInfo, place: Place) -> str:
    fields = dataclasses.asdict(info) | {"directory": str(info.directory)}
    return json.dumps({"info": fields, "place": dataclasses.asdict(place)})


def _decode(answer: dict[str, Any]) -> tuple[RunInfo, Place]:
    if "error" in answer:
        raise ConfigurationError(answer["error"])
    info = answer["info"]
    lanes = tuple(Lane(**lane) for lane in info.pop("lanes"))
    directory = Path(info.pop("directory"))
    return RunInfo(**info, directory=directory, lanes=lanes), Place(**answer["place"])
