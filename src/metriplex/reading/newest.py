"""Find the newest run of a name, among those that got a number because the name was taken."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

from metriplex.errors import ConfigurationError
from metriplex.journal.finding import find_run
from metriplex.journal.reader import has_journal, read_run

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("metriplex")


def newest_run(run: str | os.PathLike[str], log_dir: str | os.PathLike[str]) -> Path:
    """Return the directory of a run as `find_run` does; of several runs of a name, the newest one.

    The runs of the name `walk` are `walk` and, beside it, `walk_2`, `walk_3`, ... that have a
    journal. The newest one is the one that was started last. A warning in the log names it. A path,
    which has a separator, is that run alone.

    Raises:
        ConfigurationError: There is no run.
        OSError: A directory can't be read.
    """
    first = find_run(run, log_dir)
    text = os.fspath(run)
    if first.name != text or set(text) & {os.sep, os.altsep}:
        return first
    numbered = re.compile(rf"{re.escape(first.name)}_([2-9]|[1-9]\d+)")
    others = [path for path in first.parent.iterdir() if numbered.fullmatch(path.name)]
    runs = [first, *filter(has_journal, others)]
    newest = max(runs, key=_start)
    if len(runs) > 1:
        logger.warning(
            "%d runs have the name `%s`: the newest one is read, in %s; to read another one, give "
            "its path, such as %r",
            *(len(runs), text, newest, str(next(one for one in runs if one != newest))),
        )
    return newest


def _start(directory: Path) -> tuple[float, int, str]:
    """Return the start of a run, and its number where the journal's headers are damaged."""
    try:
        start = read_run(directory).start_time
    except (ConfigurationError, OSError):
        start = 0.0
    return start, len(directory.name), directory.name
