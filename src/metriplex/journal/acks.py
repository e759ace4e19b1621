"""Store how much of a run's journal a backend has acknowledged, as JSON in `journal/NAME.ack`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import urllib.parse
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import final

from metriplex.errors import ConfigurationError
from metriplex.files import open_file
from metriplex.journal import JOURNAL
from metriplex.journal.lines import MAX_LINE, is_count

SUFFIX = ".ack"


@final
@dataclasses.dataclass(slots=True)
class Ack:
    """The acknowledgements of one backend for one run. Not thread-safe.

    Attributes:
        path: The file of the acknowledgements.
        acked: The backend has stored the records below this number, except those in `missed`.
        missed: Ranges `(first, end)` of skipped records, which a replay can send.
        pending: Ranges after those in `missed`, which a replay is sending again.
    """

    path: Path
    acked: int = 0
    missed: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    pending: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def start_replay(self, end: int, *, everything: bool = False) -> list[tuple[int, int]]:
        """Return the ranges below `end` that the backend lacks, or all, to be sent in order."""
        if everything:
            self.acked, self.missed = 0, []
        self.missed, self.pending = [], self.missed
        return [*self.pending, (self.acked, max(self.acked, end))]

    def advance(self, position: int) -> None:
        """Acknowledge everything below a number, but for `missed`."""
        self.acked = max(self.acked, position)
        self.pending = [
            (max(first, position), end) for first, end in self.pending if end > position
        ]

    def count_lacking(self, end: int) -> int:
        """Return how many of the records below `end` the backend lacks, as far as is known."""
        missed = sum(last - first for first, last in [*self.missed, *self.pending])
        return missed + max(end - self.acked, 0)

    def miss(self, first: int, end: int) -> None:
        """Add a range of skipped records; ignore an empty range."""
        if first >= end:
            return
        after = [one for one in self.missed if one[0] > end]
        while self.missed and self.missed[-1][0] > end:
            self.missed.pop()
        while self.missed and self.missed[-1][1] >= first:
            earlier = self.missed.pop()
            first, end = min(first, earlier[0]), max(end, earlier[1])
        self.missed += [(first, end), *after]

    def save(self) -> None:
        """Write the file atomically: a reader sees the old state or the new one."""
        fields = {"acked": self.acked, "missed": [*self.missed, *self.pending]}
        fresh = self.path.with_suffix(f"{SUFFIX}.{os.getpid()}")
        try:
            with open_file(fresh, "wb", inside=self.path.parent.parent) as file:
                file.write(json.dumps(fields).encode() + b"\n")
            fresh.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise


def ack_path(run_dir: Path, name: str) -> Path:
    """Return the path of a backend's acknowledgements, inside the journal for every name."""
    return run_dir / JOURNAL / f"{urllib.parse.quote(name, safe=' ')}{SUFFIX}"


def load_ack(run_dir: Path, name: str) -> Ack | None:
    """Return the acknowledgements of a backend for a run; None if there are none yet.

    Raises:
        ConfigurationError: The file is damaged.
        OSError: It can't be read, or is no regular file.
    """
    path = ack_path(run_dir, name)
    try:
        with open_file(path, inside=run_dir) as file:
            data = file.read(MAX_LINE)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        acked = fields["acked"]
        missed = [(first, end) for first, end in fields["missed"]]
        numbers = [0, *(number for pair in missed for number in pair), acked]
        if not all(map(is_count, numbers)) or numbers != sorted(numbers):
            raise ValueError("the numbers are out of order")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigurationError(
            f"`{path}` is damaged, and with it the knowledge of what the backend has: remove it to "
            f"send the whole run again"
        ) from error
    return Ack(path, acked, missed)


def clamp_acks(run_dir: Path, end: int) -> None:
    """Remove acknowledgements of records from `end` on, which the journal lost, of all backends.

    Their numbers are reused.

    Raises:
        ConfigurationError: A backend's file is damaged.
    """
    for path in sorted((run_dir / JOURNAL).glob(f"*{SUFFIX}")):
        ack = load_ack(run_dir, urllib.parse.unquote(path.name.removesuffix(SUFFIX)))
        if ack is not None and ack.acked > end:
            ack.acked = end
            ack.missed = [(first, min(last, end)) for first, last in ack.missed if first < end]
            ack.save()


def open_ack(run_dir: Path, backend: str, start: int) -> Ack:
    """Return the acknowledgements of a backend from before this process.

    A backend that is new to the run has acknowledged nothing before `start`: it gets records from
    there on, and a replay sends it the earlier ones.
    """
    ack = load_ack(run_dir, backend)
    if ack is None:
        ack = Ack(ack_path(run_dir, backend), start)
        ack.miss(0, start)
    return ack
