"""The hooks of the console backend: each run has a view that shows it."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, TextIO, final

from rich.file_proxy import FileProxy

from metriplex import ConfigurationError, OpenRuns, RunInfo, Scalar, Scalars, hookimpl
from metriplex_console.live import LiveView, terminal
from metriplex_console.plain import PlainView
from metriplex_console.redirect import is_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_open_runs: dict[str, str] = {}
"""Id to name of the runs that all console backends of this process show."""


@final
class ConsoleBackend:
    """Show runs in the terminal: live on a terminal, else as plain lines.

    The live display has a chart of `chart` over the whole run, the newest value of every tag
    grouped by prefix, and the progress, with a bar if `RunInfo.total_steps` is known. The user's
    own prints and log lines appear above it. Records of several lanes are shown as mean, standard
    deviation and range over the lanes' newest values. A process shows one run live; runs that are
    opened beside it get plain lines.

    Elsewhere (pipes, files, continuous integration, notebooks, `TERM=dumb`) the backend prints
    lines like `step=512 iteration=3 episode/return=21.5`, without escape codes.

    All output goes to standard error, so that standard output stays the user's.

    Args:
        refresh_per_second: Redraws of the live display a second while records arrive.
        every_secs: The shortest time between two plain lines, in seconds; 0 for a line a step.
        max_rows: The most lines that the live table takes; None for as many as fit.
        chart: The tag that is charted; None for no chart.
        live: True for the live display and False for plain lines, on any output; None for the
            live display if the output is a terminal.
        file: A text stream to write to; None for `sys.stderr` at the time when a run opens.

    Raises:
        metriplex.ConfigurationError: An option has a value that can't be used.
    """

    def __init__(
        self,
        *,
        refresh_per_second: float = 4.0,
        every_secs: float = 10.0,
        max_rows: int | None = None,
        chart: str | None = "episode/return",
        live: bool | None = None,
        file: TextIO | None = None,
    ) -> None:
        _check_number("refresh_per_second", refresh_per_second, "above 0, at most 60", 1e-3, 60)
        _check_number("every_secs", every_secs, "0 or more", 0, math.inf)
        if max_rows is not None:
            wanted = "a whole number from 1, or None"
            _check_number("max_rows", max_rows, wanted, 1, math.inf)
            if not isinstance(max_rows, int):
                raise ConfigurationError(
                    f"`max_rows` of the console backend must be {wanted}; got {max_rows!r}"
                )
        if chart is not None and not (isinstance(chart, str) and chart):
            raise ConfigurationError(
                f"`chart` of the console backend must be a tag like 'episode/return', or None; "
                f"got {chart!r}"
            )
        if live not in (None, True, False):
            raise ConfigurationError(
                f"`live` of the console backend must be True, False or None; got {live!r}"
            )
        if file is not None and not hasattr(file, "write"):
            raise ConfigurationError(
                f"`file` of the console backend must be an open text stream, or None for "
                f"standard error; got {file!r}"
            )
        self.flush_secs = max(every_secs, 1.0)
        self._refresh_per_second = refresh_per_second
        self._every_secs = every_secs
        self._max_rows = max_rows
        self._chart = chart
        self._live = live
        self._file = file
        self._views = OpenRuns[LiveView | PlainView]()

    @hookimpl
    def open_run(self, run: RunInfo) -> None:
        self._views.open(run, self._open_view)
        _open_runs[run.id] = run.name

    def _open_view(self, run: RunInfo) -> LiveView | PlainView:
        file = self._file if self._file is not None else sys.stderr
        live = self._live if self._live is not None else _can_be_live(file)
        if live and terminal.acquire(blocking=False):
            try:
                return LiveView(run, file, self._refresh_per_second, self._max_rows, self._chart)
            except BaseException:
                terminal.release()
                raise
        return PlainView(run, file, self._every_secs, lambda: _names_of_others(run))

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Mapping[str, Scalar | str]) -> None:
        view = self._views.find(run)
        if hparams:
            view.hparams(hparams)

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Update the newest values; a live display draws them from a thread of its own."""
        view = self._views.find(run)
        # Aggregates over lanes are left out: a view shows statistics of the lanes itself.
        own = [record for record in records if not _is_aggregate(record)]
        if own:
            view.update(own)

    @hookimpl
    def flush(self, run: RunInfo) -> None:
        """Print the line that has waited for `every_secs`, if there is one."""
        self._views.find(run).flush()

    @hookimpl
    def close_run(self, run: RunInfo, status: str) -> None:
        """Show the final state and restore the terminal."""
        view = self._views.close(run, status)
        if view is not None:
            try:
                view.close(status)
            finally:
                _open_runs.pop(run.id, None)


def _names_of_others(run: RunInfo) -> list[str]:
    return [name for id_, name in list(_open_runs.items()) if id_ != run.id]


def _is_aggregate(record: Scalars) -> bool:
    return record.lane is None and all(tag.startswith("aggregate/") for tag in record.values)


def _can_be_live(file: TextIO) -> bool:
    """True for a terminal that obeys escape codes and has no other live display of rich."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return is_terminal(file) and not dumb and not isinstance(file, FileProxy)


def _check_number(name: str, value: object, wanted: str, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ConfigurationError(f"`{name}` of the console backend must be {wanted}; got {value!r}")
