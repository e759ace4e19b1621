"""The live display: one picture at the bottom of the terminal, redrawn by a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment

from metriplex_console.board import Board
from metriplex_console.display import Picture, Screen, draw
from metriplex_console.formatting import format_hparams
from metriplex_console.redirect import Redirection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex import RunInfo, Scalar, Scalars

_CLOCK_SECONDS = 1.0
"""How often the elapsed time is redrawn while nothing else changes."""

_terminal = threading.Lock()
"""Held by the one live display of this process."""


@final
class _Verbatim:
    """Text that rich writes as it is: no wrapping, no markup, the user's own colours kept."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._text)


@final
class LiveView:
    """Shows a run on a terminal until it is closed; the last picture stays.

    Args:
        run: The run.
        file: The terminal.
        refresh_per_second: How often the picture is redrawn while records arrive.
        max_rows: The most lines that the table may take.
        charted: The tag that is charted; None for no chart.
    """

    @classmethod
    def open(
        cls,
        run: RunInfo,
        file: TextIO,
        *,
        refresh_per_second: float,
        max_rows: int | None,
        charted: str | None,
    ) -> LiveView | None:
        """Starts a display, or returns None where this process shows another run already."""
        if not _terminal.acquire(blocking=False):
            return None
        try:
            return cls(run, file, refresh_per_second, max_rows, charted)
        except BaseException:
            _terminal.release()
            raise

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
        self._period = 1.0 / refresh_per_second
        self._max_rows = max_rows
        self._charted = charted
        self._board = Board(charted)
        self._status = "running"
        # One lock around all that is written: rich's own would let a line of the user's slip
        # between measuring the picture that stands and drawing over it.
        self._writing = threading.RLock()
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
        self._stop = threading.Event()
        self._live.start()
        atexit.register(self._show_cursor)
        self._redirection = Redirection(self._write_above, self._writing)
        self._thread = threading.Thread(
            target=self._refresh_until_stopped, name="metriplex-console", daemon=True
        )
        self._thread.start()

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Prints the hyper-parameters as one line."""
        self._write_above(f"hparams {format_hparams(hparams)}\n")

    def update(self, records: Sequence[Scalars]) -> None:
        """Takes records in; the thread draws them.

        Raises:
            Exception: What ended the thread, an `OSError` where the terminal is gone.
        """
        if self._error is not None:
            raise self._error
        self._board.update(records)

    def flush(self) -> None:
        """Does nothing: the thread redraws soon enough."""

    def close(self, status: str) -> None:
        """Draws the last picture, which stays, and restores the terminal and the streams."""
        self._status = status
        self._stop.set()
        self._thread.join()
        try:
            with self._writing:
                if self._error is None:
                    self._redraw()
                self._live.stop()
        finally:
            self._redirection.undo()
            atexit.unregister(self._show_cursor)
            _terminal.release()

    def _refresh_until_stopped(self) -> None:
        try:
            self._redraw()
            while not self._stop.wait(self._period):
                if self._is_stale():
                    self._redraw()
        except Exception as error:  # noqa: BLE001 - raised again by the next `update`
            self._error = error
            self._redirection.undo()

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
        screen = Screen(size.width, size.height, ascii_only, self._max_rows)
        picture = draw(
            self._run,
            snapshot,
            screen,
            now=time.time(),
            charted=self._charted,
            status=self._status,
        )
        self._drawn = (snapshot.records, size, time.monotonic())
        with self._writing:
            self._live.update(picture, refresh=True)

    def _write_above(self, lines: str) -> None:
        """Writes whole lines above the picture. Called by whichever thread prints."""
        with self._writing:
            self._console.print(_Verbatim(lines), crop=False)

    def _show_cursor(self) -> None:
        """The last resort for a process that ends without closing its run."""
        with contextlib.suppress(OSError, ValueError):
            self._console.show_cursor(True)
