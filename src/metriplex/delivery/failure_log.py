"""Messages in the log about a backend that fails while its run is open."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from metriplex.delivery.calls import Call

logger = logging.getLogger("metriplex")


@final
class FailureLog:
    """Logs the failures of one backend of a run, both given by name."""

    def __init__(self, backend: str, run: str) -> None:
        self._backend = backend
        self._run = run

    def outage(self, call: Call, error: BaseException) -> None:
        """Log that a call keeps failing and is tried again."""
        logger.warning(
            "backend `%s` keeps failing in `%s` (%s); it is tried again until the run is "
            "closed, and training goes on",
            self._backend,
            call.hook,
            describe(error),
        )

    def recovery(self) -> None:
        """Log the end of an outage."""
        logger.warning("backend `%s` works again", self._backend)

    def failure(self, call: Call, error: BaseException) -> None:
        """Log an abandoned call."""
        logger.error(
            "backend `%s` failed in `%s` (%s); %s did not reach it; training and the other "
            "backends go on",
            self._backend,
            call.hook,
            describe(error),
            _records(call),
            exc_info=error,
        )

    def suspension(self, hook: str, waiting: int) -> None:
        """Log that a backend is suspended, and how many records were waiting for it."""
        logger.error(
            "backend `%s` is suspended for the rest of run `%s`: it kept failing in `%s`; %d "
            "waiting record(s) and all further ones do not reach it",
            self._backend,
            self._run,
            hook,
            waiting,
        )

    def overflow(self, size: int) -> None:
        """Log that a queue of `size` records is full."""
        logger.warning(
            "backend `%s` is too slow or hangs: %d records wait for it; newer ones are dropped for "
            "this backend until it has caught up, and counted",
            self._backend,
            size,
        )


def _records(call: Call) -> str:
    """Return what the records of a call are, for a message."""
    if len(call.records) != 1:
        return f"{len(call.records)} record(s)"
    record = call.records[0]
    if not hasattr(record, "step"):
        return "the hyper-parameters"
    lane = "" if record.lane is None else f", lane {record.lane}"
    return f"the record of step {record.step}{lane}"


def describe(error: BaseException) -> str:
    """Return an exception as `Type: message`."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - a plugin's exception may fail to print itself
        return type(error).__name__
