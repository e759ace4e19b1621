"""Sending a run to one backend that lacks some of its records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, final

from metriplex.delivery import calls
from metriplex.delivery.retry import RETRY_SECONDS
from metriplex.delivery.sender import Sender
from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from metriplex.delivery.calls import Queued
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

    @property
    def damage(self) -> Sequence[str]:
        """A sentence about each part that could not be read so far."""

    def read(self, first: int, end: int) -> Iterator[Queued]:
        """Yield the calls that deliver records, without superseded ones, and gaps of lost ones."""

    def load_ack(self, name: str) -> Ack:
        """Return a backend's acknowledgement, which is empty if it never saw the run."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a replay to one backend.

    Attributes:
        backend: The backend's name.
        sent: Records that it took.
        left: How many numbers of the run it still lacks, as far as is known.
        error: The last error that it raised, as `Type: message`; None if it raised none.
        damage: A sentence about each part of the run that can't be read.
    """

    backend: str
    sent: int
    left: int
    error: str | None
    damage: tuple[str, ...] = ()


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
    after Ctrl-C. `everything` sends all records, also those that it has acknowledged.

    Raises:
        ConfigurationError: The acknowledgement can't be written.
    """
    ack = source.load_ack(backend.name)
    gaps = ack.start_replay(source.end, everything=everything)
    total = sum(end - first for first, end in gaps)

    def refuse(error: OSError) -> NoReturn:
        raise ConfigurationError(
            f"`{ack.path}` can't be written ({type(error).__name__}: {error}), without "
            f"which a repetition would send everything twice: mend that first"
        ) from error

    def read(first: int, end: int, done: int) -> Iterator[Queued]:
        report = progress or (lambda *_: None)
        for call in source.read(first, end):
            yield call  # the sender reads on when the call is done
            report(backend.name, done + call.end - first, total)
        report(backend.name, done + end - first, total)

    sender = Sender(
        backend,
        dataclasses.replace(source.run, resume_step=None),
        retry_seconds=retry_seconds,
        ack=ack,
        start=gaps[0][0],
        on_unsaved=refuse,
    )
    done = 0
    try:
        for first, end in gaps:
            if not sender.suspended:
                sender.fill(read(first, end, done), end)
                done += end - first
    finally:
        sender.close(calls.close_run(0, source.status))
    left = ack.count_lacking(source.end)
    return Replayed(backend.name, sender.delivered, left, sender.error, tuple(source.damage))
