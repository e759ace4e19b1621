"""Background threads of a run: provenance, system metrics."""

from __future__ import annotations

import abc
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, final

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
"""The environment variable that switches it off where it is `0`."""


class BackgroundThread(abc.ABC):
    """A thread that begins with the run and has ended when the run's backends are closed."""

    def __init__(self, name: str) -> None:
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"metriplex-{name}", daemon=True)
        self._thread.start()

    def program_started(self) -> None:  # noqa: B027 - most have no use for it
        """Tells that a program has logged. Any thread; returns at once."""

    def close(self, timeout: float) -> None:
        """Ends it, and waits for that; any thread, also twice."""
        self._closing.set()
        self._thread.join(max(timeout, 0.0))

    def _run(self) -> None:
        try:
            self._work()
        except ClosedError:
            pass
        except Exception:
            logger.exception("`%s` has failed; training goes on", self._thread.name)

    @abc.abstractmethod
    def _work(self) -> None:
        """What the thread does; it returns soon after `_closing` is set."""


@final
class ProvenanceReport(BackgroundThread):
    """Logs once where the run comes from, as a table under `run/provenance`.

    Args:
        log_text: Takes the record.
        devices: Names the devices; called once a program has logged, when jax is certain to be
            initialised, and never before.
    """

    def __init__(self, log_text: Callable[[Text], None], devices: Callable[[], str]) -> None:
        self._log_text = log_text
        self._devices = devices
        self._started = False
        super().__init__("provenance")

    def program_started(self) -> None:
        """See `BackgroundThread.program_started`."""
        self._started = True
        self._closing.set()

    def _work(self) -> None:
        facts = provenance.collect()
        self._closing.wait()
        if self._started:
            facts["devices"] = self._devices()
        text = provenance.to_markdown(facts)
        self._log_text(Text(0, PROVENANCE, text, wall_time=time.time()))


@final
class SystemSampler(BackgroundThread):
    """Logs `system/...` every so many seconds, at the newest step.

    Args:
        log_scalars: Takes a sample.
        probe: Gives it.
        seconds: Between two samples.
    """

    def __init__(
        self, log_scalars: Callable[[Mapping[str, Scalar]], None], probe: Probe, seconds: float
    ) -> None:
        self._log_scalars = log_scalars
        self._probe = probe
        self._seconds = seconds
        super().__init__("system")

    def _work(self) -> None:
        try:
            while not self._closing.wait(self._seconds):
                self._log_scalars(self._probe.sample())
        finally:
            self._probe.close()


def start_background(
    log_text: Callable[[Text], None],
    log_sample: Callable[[Mapping[str, Scalar]], None],
    name_devices: Callable[[], str],
    *,
    provenance: bool | None,
    system_seconds: float,
) -> list[BackgroundThread]:
    """Start the background threads of a run.

    Args:
        log_text: Logs the provenance.
        log_sample: Logs a sample of the system, at the run's newest step.
        name_devices: Names the devices, as for `ProvenanceReport`.
        provenance: Whether to log the provenance; None for what `SWITCH` says.
        system_seconds: Seconds between two samples of the system; 0 for none.

    Raises:
        ConfigurationError: `psutil`, which samples need, is not installed.
    """
    threads: list[BackgroundThread] = []
    if os.environ.get(SWITCH) != "0" if provenance is None else provenance:
        threads.append(ProvenanceReport(log_text, name_devices))
    if system_seconds:
        from metriplex.run.system_metrics import Probe  # only those who want samples need it

        threads.append(SystemSampler(log_sample, Probe(), system_seconds))
    return threads
