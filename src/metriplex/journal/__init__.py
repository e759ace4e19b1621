"""Write and read the journal, the durable local record of a run.

`docs/journal.md` describes the format. This room never imports jax.
"""

from __future__ import annotations

from metriplex.journal.entries import Close, Entry, Hparams, Numbers, Record, Resume
from metriplex.journal.reader import (
    has_journal,
    newest_step,
    next_number,
    read_entries,
    read_run,
    superseded,
)
from metriplex.journal.segments import JOURNAL, MAX_BYTES
from metriplex.journal.writer import FsyncPolicy, JournalWriter, check_free, take_lock

__all__ = [
    "JOURNAL",
    "MAX_BYTES",
    "Close",
    "Entry",
    "FsyncPolicy",
    "Hparams",
    "JournalWriter",
    "Numbers",
    "Record",
    "Resume",
    "check_free",
    "has_journal",
    "newest_step",
    "next_number",
    "read_entries",
    "read_run",
    "superseded",
    "take_lock",
]
