"""Show the progress of a replay on a terminal, with rich if it is installed."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from metriplex.messages import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextlib.contextmanager
def progress_bar() -> Generator[Callable[[str, int, int], None]]:
    """Open a progress display on standard error; show nothing if that is not a terminal.

    The yielded function takes a name, the number of records done, and the total number.
    """
    if not sys.stderr.isatty():
        yield lambda _name, _done, _total: None
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress, TaskID
    except ImportError:
        yield _plain
        sys.stderr.write("\n")
        return
    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True)) as bar:

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(escape(printable(name)), total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield update


def _plain(name: str, done: int, total: int) -> None:
    sys.stderr.write(f"\r{printable(name)}: {done:,} of {total:,} records")
    sys.stderr.flush()
