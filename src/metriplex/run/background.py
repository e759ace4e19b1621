"""What goes along with a run on a thread of its own, and logs into it."""

from __future__ import annotations

import abc
import collections
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
    from metriplex.run.run import Run
    from metriplex.run.system_metrics import Probe

logger = logging.getLogger("metriplex")

PROVENANCE = "run/provenance"

SWITCH = "METRIPLEX_PROVENANCE"
"""The environment variable that switches it off where it is `0`."""


class Companion(abc.ABC):
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


def name_devices() -> str:
    """This process's devices, such as `8 x NVIDIA H100`; initialises jax."""
    import jax

    kinds = collections.Counter(device.device_kind for device in jax.local_devices())
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())


@final
class ProvenanceReport(Companion):
    """Logs once where the run comes from, as a table under `run/provenance`.

    Args:
        log_text: Takes the record.
        devices: Names the devices; called once a program has logged, when jax is certain to be
            initialised, and never before.
    """

    def __init__(
        self, log_text: Callable[[Text], None], devices: Callable[[], str] = name_devices
    ) -> None:
        self._log_text = log_text
        self._devices = devices
        self._started = False
        super().__init__("provenance")

    def program_started(self) -> None:
        """See `Companion.program_started`."""
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
class SystemSampler(Companion):
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


def accompany(run: Run, *, provenance: bool | None, seconds: float) -> None:
    """Starts what goes along with a run.

    Args:
        run: The run.
        provenance: Whether it is logged where the run comes from; None for what `SWITCH` says.
        seconds: Between two samples of the system; 0 for none.

    Raises:
        ConfigurationError: `psutil`, which samples need, is not installed.
    """
    if os.environ.get(SWITCH) != "0" if provenance is None else provenance:
        run.companions.append(ProvenanceReport(run.log_media))
    if seconds:
        from metriplex.run.system_metrics import Probe  # only those who want samples need it

        def log(sample: Mapping[str, Scalar]) -> None:
            run.log_scalars(run.newest_step, sample)

        run.companions.append(SystemSampler(log, Probe(), seconds))
