"""The processes of `jax.distributed`: how they agree on what a run is, and on who writes it.

Which process writes is not known before the program runs: rows reach the one that owns the first
device of the program's mesh. Keys and values are shared through the coordination service of
`jax.distributed`, which needs no device and no program.
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
"""How long a process waits for process 0 to construct the callback that it constructs."""

FIRST_HANDLE = 2**30
"""Handles of runs of several processes are equal in all of them, whatever else one has open."""

_numbers = itertools.count()


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """The processes of `jax.distributed`, as one run sees them.

    Attributes:
        process: Index of this process.
        size: How many processes there are.
        number: How many runs the processes had before this one.
        client: Of jax's coordination service.
    """

    process: int
    size: int
    number: int
    client: Any

    @property
    def handle(self) -> int:
        """The run's handle, the same in every process."""
        return FIRST_HANDLE + self.number

    def gather(self) -> None:
        """Process 0 waits until the others are here too, `JOIN_SECONDS` at most."""
        if self.process == 0:
            self.wait(0, JOIN_SECONDS)
        else:
            self.arrive(0)

    def agree(self, find: Callable[[], tuple[RunInfo, Place]]) -> tuple[RunInfo, Place]:
        """What process 0 finds; what it raises, the others raise too, at once.

        Args:
            find: Finds the run, or names a new one. Process 0 alone calls it.

        Raises:
            ConfigurationError: Process 0 has found none, or has not constructed the run in
                `JOIN_SECONDS`.
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
            said = self.client.blocking_key_value_get(key, int(JOIN_SECONDS * 1e3))
        except jax.errors.JaxRuntimeError as error:
            raise ConfigurationError(
                f"process {self.process} has constructed `MetricsCallback` number "
                f"{self.number + 1} and process 0 has not, in {JOIN_SECONDS:g} s: construct "
                f"the same callbacks in every process, in the same order"
            ) from error
        return _decode(json.loads(said))

    def claim(self) -> int | None:
        """The process that writes the run: this one, if it is the first to ask.

        None if nobody can be asked any more.
        """
        try:
            self.client.key_value_set(self._key("writer"), str(self.process))
        except jax.errors.JaxRuntimeError:
            return self.writer()
        return self.process

    def writer(self) -> int | None:
        """The process that writes the run, if one has claimed it."""
        try:
            return int(self.client.key_value_try_get(self._key("writer")))
        except jax.errors.JaxRuntimeError:
            return None

    def arrive(self, turn: int) -> None:
        """Tells process 0 that whatever rows this process got before its `turn` are claimed."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.client.key_value_set(self._key(f"turn/{turn}/{self.process}"), "")

    def wait(self, turn: int, timeout: float) -> None:
        """Waits until all the others have arrived at a turn, `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            for process in range(self.size):
                if process != self.process:
                    left = max(int((deadline - time.monotonic()) * 1e3), 1)
                    self.client.blocking_key_value_get(self._key(f"turn/{turn}/{process}"), left)

    def _key(self, name: str) -> str:
        return f"metriplex/{self.number}/{name}"


def join_cluster(*, abort: bool) -> Cluster | None:
    """The cluster, if `jax.distributed` runs several processes. Every process has to call this.

    Args:
        abort: Whether the run would stop the program from the host.

    Raises:
        ConfigurationError: It would, which hangs the other processes.
    """
    if not jax.distributed.is_initialized():
        return None
    from jax._src import distributed  # what else gives the coordination service is a collective

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
    lanes = [[lane.name, dict(lane.hparams)] for lane in info.lanes]
    said = {
        "id": info.id,
        "name": info.name,
        "directory": str(info.directory),
        "start_time": info.start_time,
        "total_steps": info.total_steps,
        "resume_step": info.resume_step,
        "lanes": lanes,
    }
    return json.dumps({"info": said, "place": dataclasses.asdict(place)})


def _decode(said: dict[str, Any]) -> tuple[RunInfo, Place]:
    if "error" in said:
        raise ConfigurationError(said["error"])
    info = said["info"]
    lanes = tuple(Lane(name, hparams) for name, hparams in info.pop("lanes"))
    directory = Path(info.pop("directory"))
    return RunInfo(**info, directory=directory, lanes=lanes), Place(**said["place"])
