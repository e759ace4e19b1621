"""Find the segments of a journal: `000000.jsonl`, `000001.jsonl`, ... in a run's `journal/`."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import Any

from metriplex.journal.codec import HEADERS
from metriplex.journal.lines import DamagedLineError, parse

JOURNAL = "journal"
MAX_BYTES = 64 * 2**20
"""Size of a segment after which the next segment begins."""

_NAME = re.compile(r"\d{6,}\.jsonl")


def journal_dir(run_dir: Path) -> Path:
    """Return the directory of a run's journal."""
    return run_dir / JOURNAL


def segments(run_dir: Path) -> list[tuple[int, Path]]:
    """Return the existing segments in order, each with its number; empty without a journal."""
    try:
        found = [p for p in journal_dir(run_dir).iterdir() if _NAME.fullmatch(p.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((int(path.stem), path) for path in found)


def read_header(path: Path) -> dict[str, Any] | None:
    """Return the first line of a segment; None if the line is damaged or missing."""
    try:
        with path.open("rb") as file:
            fields = parse(file.readline().removesuffix(b"\n"))
    except (DamagedLineError, FileNotFoundError):
        return None
    return fields if fields.get("type") in HEADERS else None
