"""The directory of a run, found by its name or its path."""

from __future__ import annotations

import os
from pathlib import Path

from metriplex.errors import ConfigurationError
from metriplex.journal.reader import has_journal

LOG_DIR = "logs"
"""The directory of runs where none is given."""


def find_run(run: str | os.PathLike[str], log_dir: str | os.PathLike[str] = LOG_DIR) -> Path:
    """Return the absolute path of the directory of a run that has a journal.

    A name is looked up under `log_dir` first, then in the working directory. A path, which has a
    separator (`./walk`, `walk/`, `logs/walk`), is looked up as it is first, then under `log_dir`.
    The first of the two directories that has a journal is the run. `~` is the home directory.

    Raises:
        ConfigurationError: Neither directory has a journal.
        OSError: A directory can't be read.
    """
    places = run_places(run, log_dir)
    for directory in places:
        if has_journal(directory):
            return directory.absolute()
    raise ConfigurationError(
        f"there is no journal in {' or '.join(repr(str(path)) for path in places)}: give the "
        f"directory of a run (what holds `journal/`), or its name under `{log_dir}/`"
    )


def run_places(run: str | os.PathLike[str], log_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the directories that `find_run` looks in, in its order; one if `run` is absolute."""
    text = os.fspath(run)
    as_path = Path(text).expanduser()
    under_log_dir = Path(log_dir).expanduser() / as_path
    # "." and ".." are paths too; their `name` is empty or "..".
    is_name = not set(text) & {os.sep, os.altsep} and as_path.name not in {"", ".."}
    places = [under_log_dir, as_path] if is_name else [as_path, under_log_dir]
    return list(dict.fromkeys(places))
