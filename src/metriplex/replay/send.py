"""Sending a run to one backend that lacks some of its records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, final

from metriplex.delivery import calls
from metriplex.delivery.calls import Call, Gap
from metriplex.delivery.retry import RETRY_SECONDS
from metriplex.delivery.sender import Sender
from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from metriplex.journal.acks import Ack
    from metriplex.plugins.backends import Backend
    from metriplex.records import RunInfo

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the backend's name, how many records are done, and how many there are to do."""


class Source(Protocol):
    """A stored run that can be sent to backends."""

    @property
    def run(self) -> RunInfo:
        """The run."""

    @property
    def status(self) -> str:
        """The run's status at its end: `finished`, `failed` or `interrupted`."""

    @property
    def end(self) -> int:
        """The number after its last record."""

    def read(self, first: int, end: int) -> Iterator[Call]:
        """Yield the calls that deliver records, without superseded ones."""

    def load_ack(self, name: str) -> Ack:
        """Return a backend's acknowledgement."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a replay to one backend.

    Attributes:
        backend: The backend's name.
        sent: Records that it took.
        left: How many numbers of the run it still lacks, as far as is known.
        error: The last error that it raised, as `Type: message`; None if it raised none.
    """

    backend: str
    sent: int
    left: int
    error: str | None


def send(
    source: Source,
    backend: Backend,
    *,
    everything: bool = False,
    progress: Progress | None = None,
    retry_seconds: Sequence[float] = RETRY_SECONDS,
) -> Replayed:
    """Send the records that one backend has not acknowledged, on the calling thread.

    The run is opened in the backend if there is something to send, and then flushed and closed also
    after Ctrl-C.

    Args:
        source: The run.
        backend: The backend.
        everything: True to send all records.
        progress: Called after each call of the backend.
        retry_seconds: Pauses between the tries of a call that raised an `OSError`.

    Raises:
        ConfigurationError: The acknowledgement can't be written.
    """
    ack = source.load_ack(backend.name)
    gaps = [Gap(*gap) for gap in ack.start_replay(source.end, everything=everything)]

    def refuse(error: OSError) -> NoReturn:
        raise ConfigurationError(
            f"`{ack.path}` can't be written ({type(error).__name__}: {error}), without "
            f"which a repetition would send everything twice: mend that first"
        ) from error

    sender = Sender(
        backend,
        dataclasses.replace(source.run, resume_step=None),
        retry_seconds=retry_seconds,
        source=_Progressing(source, backend.name, gaps, progress),
        ack=ack,
        start=gaps[0].first,
        on_unsaved=refuse,
    )
    try:
        for gap in gaps:
            if not sender.suspended:
                sender.fill(gap)
    finally:
        sender.close(calls.close_run(0, source.status))
    return Replayed(backend.name, sender.delivered, ack.count_lacking(source.end), sender.error)


@final
class _Progressing:
    """A source that reports progress: the sender reads on when a call is done."""

    def __init__(
        self, source: Source, backend: str, gaps: Sequence[Gap], progress: Progress | None
    ) -> None:
        self._source = source
        self._backend = backend
        self._progress = progress
        self._total = sum(gap.end - gap.first for gap in gaps)
        self._done = 0

    def read(self, first: int, end: int) -> Iterator[Call]:
        """Yield the calls that deliver records."""
        for call in self._source.read(first, end):
            yield call
            self._report(self._done + call.end - first)
        self._done += end - first
        self._report(self._done)

    def _report(self, done: int) -> None:
        if self._progress is not None:
            self._progress(self._backend, done, self._total)
