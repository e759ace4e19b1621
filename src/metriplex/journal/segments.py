"""Find the segments of a journal: `000000.jsonl`, `000001.jsonl`, ... in a run's `journal/`."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import IO, Any

from metriplex.files import Mode, check_inside, is_regular, open_file
from metriplex.journal.codec import HEADERS
from metriplex.journal.lines import MAX_LINE, DamagedLineError, parse

JOURNAL = "journal"
MAX_BYTES = 64 * 2**20
"""Size of a segment after which the next segment begins."""

_NAME = re.compile(r"\d{6,}\.jsonl")


def journal_dir(run_dir: Path) -> Path:
    """Return the directory of a run's journal."""
    return run_dir / JOURNAL


def segments(run_dir: Path) -> list[tuple[int, Path]]:
    """Return the existing segments in order, each with its number; empty without a journal.

    Raises:
        UnsafeFileError: The journal's directory is a symbolic link.
        OSError: The directory can't be read.
    """
    return sorted((int(path.stem), path) for path in _named(run_dir) if is_regular(path))


def irregular(run_dir: Path) -> list[Path]:
    """Return what has the name of a segment and is none: a symbolic link or no regular file."""
    return sorted(path for path in _named(run_dir) if not is_regular(path))


def _named(run_dir: Path) -> list[Path]:
    directory = journal_dir(run_dir)
    check_inside(directory, run_dir)
    try:
        return [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def open_segment(path: Path, mode: Mode = "rb", **options: Any) -> IO[bytes]:
    """Open a segment, as `metriplex.files.open_file` does below the run's directory."""
    return open_file(path, mode, inside=path.parent.parent, **options)


def read_header(path: Path) -> dict[str, Any] | None:
    """Return the first line of a segment; None if the line is damaged or missing."""
    try:
        with open_segment(path) as file:
            fields = parse(file.readline(MAX_LINE).removesuffix(b"\n"))
    except (DamagedLineError, FileNotFoundError):
        return None
    return fields if fields.get("type") in HEADERS else None
