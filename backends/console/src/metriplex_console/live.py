"""The live display: a picture at the bottom of the terminal, drawn by a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import math
import queue
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, final

from rich.console import Console
from rich.live import Live
from rich.segment import Segment, Segments

from metriplex_console.board import Board
from metriplex_console.display import Picture, Screen, draw
from metriplex_console.formatting import format_hparams, printable
from metriplex_console.redirect import Redirection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex import RunInfo, Scalar, Scalars

_CLOCK_SECONDS = 1.0
"""Seconds between redraws of the elapsed time while nothing else changes."""

_PATIENCE = 1.0
"""Seconds that a thread that prints waits until its line is written. The limit is needed because
the thread may hold a lock that drawing needs, such as a log handler's."""

terminal = threading.Lock()
"""The lock of the process's only live display: acquired by the caller that makes a `LiveView`, and
released by `LiveView.close`."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Print:
    """Lines that the user prints, and an event for when the terminal shows them."""

    lines: str
    done: threading.Event = field(default_factory=threading.Event)


@final
class LiveView:
    """Show a run on a terminal until the run is closed; the last picture stays.

    Only one thread writes to the terminal. So no print comes between measuring the old picture and
    drawing over it, and Ctrl-C, which interrupts the main thread, interrupts neither.
    """

    def __init__(
        self,
        run: RunInfo,
        file: TextIO,
        refresh_per_second: float,
        max_rows: int | None,
        charted: str | None,
    ) -> None:
        directory = run.directory
        with contextlib.suppress(ValueError):
            directory = directory.relative_to(Path.cwd())
        self._run = replace(run, directory=directory)
        self._file = file
        self._period = 1.0 / refresh_per_second
        self._max_rows = max_rows
        self._charted = charted
        self._board = Board(charted)
        self._status = "running"
        self._console = Console(
            file=file, force_terminal=True, force_interactive=True, force_jupyter=False
        )
        self._live = Live(
            Picture(()),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._error: Exception | None = None
        self._drawn: tuple[int, tuple[int, int], float] = (-1, (0, 0), 0.0)
        self._prints: queue.SimpleQueue[_Print | None] = queue.SimpleQueue()
        self._live.start()
        atexit.register(self._show_cursor)
        self._redirection = Redirection(self._write_above)
        self._thread = threading.Thread(target=self._work, name="metriplex-console", daemon=True)
        self._thread.start()

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Print the hyper-parameters as one line."""
        line = printable(f"hparams {format_hparams(hparams)}", self._console.encoding)
        self._write_above(f"{line}\n")

    def update(self, records: Sequence[Scalars]) -> None:
        """Add records, or raise the error that ended the thread: `OSError` without a terminal."""
        if self._error is not None:
            raise self._error
        self._board.update(records)

    def flush(self) -> None:
        """Do nothing: the thread redraws soon enough."""

    def close(self, status: str) -> None:
        """Draw the last picture, which stays, and restore the terminal and the streams."""
        self._status = status
        self._prints.put(None)
        self._thread.join()
        atexit.unregister(self._show_cursor)
        terminal.release()
        if self._error is not None:
            raise self._error

    # ---- the thread that writes -----------------------------------------------------------------

    def _work(self) -> None:
        try:
            try:
                self._show_until_closed()
            finally:
                self._live.stop()
        except Exception as error:  # noqa: BLE001 - raised again by the next `update`
            self._error = error
        finally:
            self._redirection.undo()
            self._write_through()

    def _show_until_closed(self) -> None:
        due = -math.inf
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + self._period
                if self._is_stale():
                    self._redraw()
            try:
                item = self._prints.get(timeout=max(due - now, 0.0))
            except queue.Empty:
                continue
            if item is None:
                break
            self._print(item)
        with contextlib.suppress(queue.Empty):
            while (item := self._prints.get_nowait()) is not None:
                self._print(item)
        self._redraw()

    def _is_stale(self) -> bool:
        records, size, drawn_at = self._drawn
        return (
            self._board.records != records
            or self._console.size != size
            or time.monotonic() - drawn_at >= _CLOCK_SECONDS
        )

    def _redraw(self) -> None:
        snapshot = self._board.snapshot()
        size = self._console.size
        ascii_only = self._console.options.ascii_only
        screen = Screen(size.width, size.height, ascii_only, self._console.encoding, self._max_rows)
        picture = draw(
            self._run,
            snapshot,
            screen,
            now=time.time(),
            charted=self._charted,
            status=self._status,
        )
        self._drawn = (snapshot.records, size, time.monotonic())
        self._live.update(picture, refresh=True)

    def _print(self, item: _Print) -> None:
        try:
            # As a segment, so that rich neither wraps the text nor changes its colors.
            self._console.print(Segments([Segment(item.lines)]), crop=False)
        finally:
            item.done.set()

    # ---- any thread that prints -----------------------------------------------------------------

    def _write_above(self, lines: str) -> None:
        """Queue whole lines to be written above the picture, and wait until they are."""
        item = _Print(lines)
        self._prints.put(item)
        if threading.current_thread() is self._thread:  # a finalizer's print
            return
        item.done.wait(_PATIENCE if self._thread.is_alive() else 0.0)
        if not self._thread.is_alive():  # also in a forked child
            self._write_through()

    def _write_through(self) -> None:
        """Write the remaining lines directly, after the thread has ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._prints.get_nowait()
                if item is not None:
                    item.done.set()
                    self._file.write(item.lines)

    def _show_cursor(self) -> None:
        """Restore the cursor in a process that ends without closing its run."""
        with contextlib.suppress(OSError, ValueError):
            self._console.show_cursor(True)
