"""Runs of several processes: all agree on what a run is called, and one of them writes it.

Which one is not known before the program runs: rows reach the process that owns the first device of
the program's mesh. So a process opens the run, and makes its directory and backends, only when
there is something to write. Keys and values are shared through the coordination service of
`jax.distributed`, which needs no device and no program.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import threading
import uuid
from typing import TYPE_CHECKING, Any, final

import jax

from metriplex.errors import ClosedError, ConfigurationError
from metriplex.naming import free_directory, local_directory
from metriplex.opening import open_run
from metriplex.records import RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metriplex.opening import Opened
    from metriplex.records import Delivery, Media, Scalar
    from metriplex.run import Run
    from metriplex.sequence import Row

logger = logging.getLogger("metriplex")

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
        number: How many runs the processes had before this one.
        client: Of jax's coordination service.
    """

    process: int
    number: int
    client: Any

    @property
    def handle(self) -> int:
        """The run's handle, the same in every process."""
        return FIRST_HANDLE + self.number

    def agree(self, info: RunInfo) -> RunInfo:
        """What process 0 calls the run, and where this process would write it.

        Args:
            info: As this process would have it; its directory is where runs are, not its own yet.

        Raises:
            ConfigurationError: Process 0 has not constructed the run, in `JOIN_SECONDS`.
        """
        said: dict[str, Any]
        key = f"metriplex/run/{self.number}"
        if self.process == 0:
            directory = free_directory(info.directory, info.name)
            said = {"id": info.id, "name": directory.name, "start_time": info.start_time}
            self.client.key_value_set(key, json.dumps(said))
        else:
            try:
                said = json.loads(self.client.blocking_key_value_get(key, int(JOIN_SECONDS * 1e3)))
            except jax.errors.JaxRuntimeError as error:
                raise ConfigurationError(
                    f"process {self.process} has constructed `MetricsCallback` number "
                    f"{self.number + 1} and process 0 has not, in {JOIN_SECONDS:g} s: construct "
                    f"the same callbacks in every process, in the same order"
                ) from error
        return dataclasses.replace(info, directory=info.directory / said["name"], **said)

    def claim(self) -> bool:
        """Whether this process is the first one that writes the run."""
        try:
            self.client.key_value_set(f"metriplex/writer/{self.number}", str(self.process))
        except jax.errors.JaxRuntimeError:
            return False  # also if nobody can be asked any more: better two runs than one garbled
        return True


def join_cluster(*, abort: bool, resume: object) -> Cluster | None:
    """The cluster, if `jax.distributed` runs several processes. Every process has to call this.

    Args:
        abort: Whether the run would stop the program from the host.
        resume: The run that is to be continued, if any.

    Raises:
        ConfigurationError: It would, which hangs the other processes; or a run is to be continued.
    """
    if not jax.distributed.is_initialized():
        return None
    from jax._src import distributed  # what else gives the coordination service is a collective

    state = distributed.global_state
    if (state.num_processes or 1) == 1:
        return None
    if abort:
        raise ConfigurationError(
            '`nonfinite="abort"` stops one process, for which the others would wait forever: with '
            'several processes use `"error"`'
        )
    if resume is not None:
        raise ConfigurationError(
            f"a run can't be resumed by several processes, as only one of them has it; got "
            f"`resume={resume!r}`: start a new run, and give its `log` steps of your own"
        )
    return Cluster(state.process_id, next(_numbers), state.client)


def is_written_here(run: Run | ClusterRun) -> bool:
    """Whether this process writes what the host logs: always, where there is no other one."""
    return not isinstance(run, ClusterRun) or run.for_host() is not None


@final
class ClusterRun:
    """Stands for a run in each of several processes, and opens it in the one that writes.

    Rows open it. So do, in process 0, records that the host logs, which every process logs alike;
    in a process that doesn't write they are dropped. A second process that receives rows, as where
    each has lanes of its own, writes a run of its own, `{name}_process_1`.

    Args:
        cluster: The processes.
        log_dir: As for `open_run`, like the next ones.
        name: What process 0 calls the run, unless that name is taken.
        now: Seconds since the Unix epoch.
        rest: What else `open_run` takes for a new run.
        start: Makes a run of what `open_run` has found.
    """

    def __init__(
        self,
        cluster: Cluster,
        log_dir: str | os.PathLike[str],
        name: str,
        now: float,
        rest: dict[str, Any],
        start: Callable[[Opened], Run],
    ) -> None:
        info = RunInfo(uuid.uuid4().hex, name, local_directory(log_dir), now)
        self._cluster = cluster
        self._info = dataclasses.replace(
            cluster.agree(info), total_steps=rest["total_steps"], lanes=rest["lanes"]
        )
        self._log_dir = info.directory
        self._rest = rest
        self._start = start
        self._run: Run | None = None
        self._hparams: dict[str, Scalar | str] = {}
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._refused = False
        self._failed = False
        self._closed = False

    @property
    def info(self) -> RunInfo:
        """What backends know of the run; where this process doesn't write, of that of another."""
        return self._info if self._run is None else self._run.info

    @property
    def closed(self) -> bool:
        """Whether nothing more can be logged."""
        return self._closed or os.getpid() != self._process

    def receive(self, rows: Sequence[Row]) -> None:
        """Takes rows as they come from the device. The drain thread calls."""
        with self._lock:
            run = self._run or self._open()
        if run is not None:
            run.receive(rows)

    def release(self) -> None:
        """Hands on the rows that still wait for earlier ones: the program has ended."""
        if self._run is not None:
            self._run.release()

    def log_scalars(self, step: int, values: Mapping[str, Scalar]) -> None:
        """As `Run.log_scalars`."""
        if (run := self.for_host()) is not None:
            run.log_scalars(step, values)

    def log_hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """As `Run.log_hparams`; kept until the run is opened here."""
        with self._lock:
            if self._run is None:
                self._check_open()
                self._hparams.update(hparams)
                return
        self._run.log_hparams(hparams)

    def log_media(self, record: Media) -> None:
        """As `Run.log_media`."""
        if (run := self.for_host()) is not None:
            run.log_media(record)

    def flush(self, timeout: float) -> None:
        """As `Run.flush`."""
        if self._run is not None:
            self._run.flush(timeout)
        else:
            self._check_open()

    def close(self, status: str, timeout: float) -> None:
        """As `Run.close`."""
        with self._lock:
            self._closed = True
        if self._run is not None:
            self._run.close(status, timeout)

    def deliveries(self) -> tuple[Delivery, ...]:
        """As `Run.deliveries`; empty where this process doesn't write."""
        return () if self._run is None else self._run.deliveries()

    def for_host(self) -> Run | None:
        """The run, if this process writes what the host logs; opens it in process 0.

        Raises:
            ClosedError: The run is closed.
        """
        with self._lock:
            if self._run is None:
                self._check_open()
                if self._cluster.process == 0 and not self._refused:
                    self._refused = not self._cluster.claim()
                    return None if self._refused else self._open_as(self._info)
            return self._run

    def _open(self) -> Run | None:
        """Opens the run for rows, which nobody else has."""
        if not self._refused and self._cluster.claim():
            return self._open_as(self._info)
        process = self._cluster.process
        return self._open_as(
            dataclasses.replace(
                self._info,
                id=f"{self._info.id}-{process}",
                name=f"{self._info.name}_process_{process}",
            )
        )

    def _open_as(self, info: RunInfo) -> Run | None:
        if self._failed or self._closed:
            return None
        try:
            opened = open_run(
                self._log_dir, info.name, info.start_time, run_id=info.id, **self._rest
            )
            run = self._start(opened)
            run.lane_count.in_parts = True
            if self._hparams:
                run.log_hparams(self._hparams)
        except Exception:
            self._failed = True
            logger.exception("run `%s` can't be opened; nothing of it is logged", info.name)
            return None
        self._run = run
        return run

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"run `{self._info.name}` is closed: construct a new callback")
