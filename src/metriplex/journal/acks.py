"""How much of a run's journal a backend has acknowledged: `journal/NAME.ack`, a JSON object."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import urllib.parse
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import Any, final

from metriplex.errors import ConfigurationError
from metriplex.journal import JOURNAL

SUFFIX = ".ack"


@final
@dataclasses.dataclass(slots=True)
class Ack:
    """What one backend keeps of a run. Not for several threads at once.

    Attributes:
        path: Its file.
        acked: Records below this number are durable there, ...
        missed: ... but for these, each a range `(first, end)`: calls that failed for good.
    """

    path: Path
    acked: int = 0
    missed: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def miss(self, first: int, end: int) -> None:
        """Takes in a range that comes after all the others; an empty one changes nothing."""
        if first >= end:
            return
        if self.missed and self.missed[-1][1] >= first:
            first = self.missed.pop()[0]
        self.missed.append((first, end))

    def save(self) -> None:
        """Replaces the file: whoever reads it sees the old state or the new one.

        Raises:
            OSError: It can't be written.
        """
        fields = {"acked": self.acked, "missed": self.missed}
        fresh = self.path.with_suffix(f"{SUFFIX}.{os.getpid()}")
        try:
            fresh.write_bytes(json.dumps(fields).encode() + b"\n")
            fresh.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise


def ack_path(run_dir: Path, name: str) -> Path:
    """Where a backend's state is; no name leads out of the directory."""
    return run_dir / JOURNAL / f"{urllib.parse.quote(name, safe=' ')}{SUFFIX}"


def load_ack(run_dir: Path, name: str) -> Ack | None:
    """What a backend has acknowledged of a run; None if it never saw it.

    Args:
        run_dir: The run's directory.
        name: The backend's name in the run.

    Raises:
        ConfigurationError: The file is damaged.
        OSError: It can't be read.
    """
    path = ack_path(run_dir, name)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        acked = fields["acked"]
        missed = [(first, end) for first, end in fields["missed"]]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path) from error
    numbers = [0, *(number for pair in missed for number in pair), acked]
    ordered = all(_is_count(n) for n in numbers) and numbers == sorted(numbers)
    if not ordered:
        raise _damaged(path)
    return Ack(path, acked, missed)


def clamp_acks(run_dir: Path, end: int) -> None:
    """Forgets what backends have of records that the journal lost, whose numbers are given again.

    Args:
        run_dir: The run's directory.
        end: The number after the last record of the journal.

    Raises:
        ConfigurationError: A backend's file is damaged.
        OSError: It can't be read or written.
    """
    for path in sorted((run_dir / JOURNAL).glob(f"*{SUFFIX}")):
        ack = load_ack(run_dir, urllib.parse.unquote(path.name.removesuffix(SUFFIX)))
        if ack is not None and ack.acked > end:
            ack.acked = end
            ack.missed = [(first, min(last, end)) for first, last in ack.missed if first < end]
            ack.save()


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _damaged(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"`{path}` is damaged, and with it the knowledge of what the backend has: remove it to "
        f"send the whole run again"
    )


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
