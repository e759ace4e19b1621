"""Starting the workers of a run: one for the journal, and one for each backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metriplex.delivery.worker import Worker
from metriplex.journal.acks import open_ack

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from metriplex.delivery.run_journal import RunJournal
    from metriplex.plugins.backends import Backend
    from metriplex.records import RunInfo

JOURNAL_QUEUE = 65_536
"""Most records that wait for the journal before newer ones are dropped."""


def start_workers(
    started: list[Worker],
    info: RunInfo,
    backends: Sequence[Backend],
    journal: RunJournal | None,
    queue_size: int,
    begin: threading.Event,
) -> None:
    """Start workers, which wait for `begin`, and add each to `started`, the journal's first.

    Raises:
        ConfigurationError: A backend's state is damaged.
        RuntimeError: A thread can't be started; `started` has those that run.
    """
    start = 0 if journal is None else journal.start
    if journal is not None:
        worker = Worker(
            journal, info, queue_size=JOURNAL_QUEUE, start=start, patient=True, begin=begin
        )
        started.append(worker)
    for backend in backends:
        worker = Worker(
            backend,
            info,
            queue_size=queue_size,
            start=start,
            patient=journal is not None,
            journal=journal,
            ack=None if journal is None else open_ack(info.directory, backend.name, start),
            begin=begin,
        )
        started.append(worker)
