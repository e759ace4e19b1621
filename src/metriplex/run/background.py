"""Background threads of a run: provenance, system metrics."""

from __future__ import annotations

import abc
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Protocol, final

from metriplex.errors import ClosedError
from metriplex.records import Text
from metriplex.run import provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metriplex.records import Scalar
    from metriplex.run.system_metrics import Probe

logger = logging.getLogger("metriplex")

PROVENANCE = "run/provenance"

SWITCH = "METRIPLEX_PROVENANCE"
"""The environment variable that switches provenance off if it is `0`."""


class Logger(Protocol):
    """The methods of a run that background threads log by."""

    @property
    def newest_step(self) -> int:
        """The greatest step that was logged."""

    def log_scalars(self, step: int, values: Mapping[str, Scalar]) -> None:
        """Log scalars; see `Run.log_scalars`."""

    def log_media(self, record: Text) -> None:
        """Log a text; see `Run.log_media`."""


class BackgroundThread(abc.ABC):
    """A thread that starts with the run and has ended when the run's backends are closed."""

    def __init__(self, name: str) -> None:
        self._name = f"metriplex-{name}"
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, run: Logger) -> None:
        """Start the thread, which logs by the run. Called once."""
        thread = threading.Thread(target=self._run, args=(run,), name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def program_started(self) -> None:  # noqa: B027 - most have no use for it
        """Note that a program has logged. Any thread; returns at once."""

    def close(self, timeout: float) -> None:
        """End the thread and wait for it. Any thread; may be called again."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(max(timeout, 0.0))

    def _run(self, run: Logger) -> None:
        try:
            self._work(run)
        except ClosedError:
            pass
        except Exception:
            logger.exception("`%s` has failed; training goes on", self._name)

    @abc.abstractmethod
    def _work(self, run: Logger) -> None:
        """Do the thread's work; return soon after `_closing` is set."""


@final
class ProvenanceReport(BackgroundThread):
    """Logs the provenance of the run once, as a table under `run/provenance`.

    `name_devices` is called once a program has logged, when jax is certain to be initialised, and
    never before.
    """

    def __init__(self, name_devices: Callable[[], str]) -> None:
        self._name_devices = name_devices
        self._started = False
        super().__init__("provenance")

    def program_started(self) -> None:
        """Name the devices too, and log; see `BackgroundThread.program_started`."""
        self._started = True
        self._closing.set()

    def _work(self, run: Logger) -> None:
        facts = provenance.collect()
        self._closing.wait()
        if self._started:
            facts["devices"] = self._name_devices()
        text = provenance.to_markdown(facts)
        run.log_media(Text(0, PROVENANCE, text, wall_time=time.time()))


@final
class SystemSampler(BackgroundThread):
    """Logs samples of a probe, which it makes, at fixed intervals, at the newest step."""

    def __init__(self, make_probe: Callable[[], Probe], seconds: float) -> None:
        self._make_probe = make_probe
        self._seconds = seconds
        super().__init__("system")

    def _work(self, run: Logger) -> None:
        probe = self._make_probe()
        try:
            while not self._closing.wait(self._seconds):
                run.log_scalars(run.newest_step, probe.sample())
        finally:
            probe.close()


def make_background(
    name_devices: Callable[[], str], *, provenance: bool | None, system_seconds: float
) -> list[BackgroundThread]:
    """Return the background threads of a run, which are still to be started.

    If `provenance` is None, the environment variable `SWITCH` decides. If `system_seconds` is 0,
    the system is not sampled. Raises `ConfigurationError` without `psutil`, which samples need.
    """
    threads: list[BackgroundThread] = []
    if os.environ.get(SWITCH) != "0" if provenance is None else provenance:
        threads.append(ProvenanceReport(name_devices))
    if system_seconds:
        from metriplex.run.system_metrics import Probe, check_installed  # only samples need it

        check_installed()
        threads.append(SystemSampler(Probe, system_seconds))
    return threads
