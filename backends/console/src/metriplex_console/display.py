"""The picture of a run: lines of styled text for a terminal of a given size. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from rich import box
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from metriplex_console.formatting import format_duration, format_number, printable, shorten
from metriplex_console.sparkline import ASCII_BLOCKS, BLOCKS, resample, sparkline
from metriplex_console.table import GAP, INDENT, Entry, Widths, arrange, to_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from metriplex import RunInfo
    from metriplex_console.board import Snapshot

Line = list[Segment]

_PLAIN = Style()
_DIM = Style(dim=True)
_STRONG = Style(bold=True)
_HEADING = Style(color="cyan", bold=True)
_CHART = Style(color="green")
_UNUSUAL = Style(color="yellow")
_BORDERS = {
    "running": Style(color="blue"),
    "finished": Style(color="green"),
    "failed": Style(color="red"),
    "interrupted": Style(color="yellow"),
}
_SMALLEST_WIDTH = 16
_WAITING_SHORT = "waiting for the first record"
_WAITING = f"{_WAITING_SHORT}: jax compiles the program first"


@final
@dataclass(frozen=True, slots=True)
class Screen:
    """The terminal for which a picture is drawn: cells of a line, and lines."""

    width: int
    height: int
    ascii_only: bool = False
    """True if the terminal's encoding has no block characters."""
    encoding: str = "utf-8"
    """The terminal's encoding; letters that it lacks are escaped before lines are measured."""
    max_rows: int | None = None
    """The most lines that the table may take; None for as many as fit."""


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """Lines that rich writes without any computation."""

    lines: tuple[Line, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for index, line in enumerate(self.lines):
            if index:
                yield Segment.line()
            yield from line


def draw(
    run: RunInfo,
    snapshot: Snapshot,
    screen: Screen,
    *,
    now: float,
    charted: str | None,
    status: str = "running",
) -> Picture:
    """Draw a run at a time in seconds since the Unix epoch.

    The picture is at most as wide as the terminal and at least one line lower, down to a width of
    16 and a height of 6. `charted` is the tag whose history the snapshot holds, `status` is
    `running` or the status given to `close_run`.
    """
    width = max(screen.width, _SMALLEST_WIDTH)
    screen = replace(screen, width=width)
    inner = width - 4
    most = screen.height if screen.max_rows is None else screen.max_rows
    progress = _progress(run, snapshot, inner, now, status, ascii_only=screen.ascii_only)
    rules = 2 if screen.height >= 12 else 0
    fixed = 1 + 2 + len(progress) + rules
    entries = [to_entry(tag, screen.encoding) for tag in snapshot.tags]
    chart: list[Line] = []
    table: list[Line] = []
    for rows in _chart_rows(screen):
        chart = _chart(snapshot, charted, inner, rows, screen)
        room = screen.height - fixed - len(chart)
        table, hidden = _table(entries, inner, max(min(room, most), 1), screen.ascii_only)
        if not hidden:
            break
    sections = [section for section in (chart, table, progress) if section]
    border = _BORDERS.get(status, _BORDERS["running"])
    frame = box.ASCII if screen.ascii_only else box.ROUNDED
    seeds = f"{snapshot.lanes} seeds" if snapshot.lanes else ""
    edge = (frame.top_left, frame.top, frame.top_right)
    lines = [_edge(printable(run.name, screen.encoding), seeds, *edge, width, border)]
    for index, section in enumerate(sections):
        if index and rules:
            rule = frame.row_left + frame.row_horizontal * (width - 2) + frame.row_right
            lines.append([Segment(rule, border)])
        for line in section:
            content = Segment.adjust_line_length(line, inner)
            left, right = f"{frame.mid_left} ", f" {frame.mid_right}"
            lines.append([Segment(left, border), *content, Segment(right, border)])
    directory = printable(str(run.directory), screen.encoding)
    shown = "" if status == "running" else status
    edge = (frame.bottom_left, frame.bottom, frame.bottom_right)
    lines.append(_edge(directory, shown, *edge, width, border, title_style=_DIM))
    return Picture(tuple(lines))


def _edge(
    title: str,
    note: str,
    left: str,
    line: str,
    right: str,
    width: int,
    border: Style,
    title_style: Style = _STRONG,
) -> Line:
    """Return a horizontal border with a title at the left and a note at the right."""
    ellipsis = "..." if left == "+" else "…"
    room = width - 6
    if note and cell_len(note) + 10 > room:
        note = ""
    title = shorten(title, room - (cell_len(note) + 3 if note else 0), ellipsis)
    fill = width - 5 - cell_len(title) - (cell_len(note) + 3 if note else 0)
    segments = [
        Segment(f"{left}{line} ", border),
        Segment(title, title_style),
        Segment(f" {line * fill}", border),
    ]
    if note:
        segments += [Segment(" ", border), Segment(note, _PLAIN), Segment(f" {line}", border)]
    return [*segments, Segment(right, border)]


def _chart_rows(screen: Screen) -> tuple[int, ...]:
    """Return the heights of the chart to try, until no tag has to be hidden."""
    if screen.height < 10:
        return (0,)
    return (3, 1) if screen.height >= 20 and screen.width >= 36 else (1,)


def _chart(
    snapshot: Snapshot, charted: str | None, width: int, rows: int, screen: Screen
) -> list[Line]:
    """Return the chart with its tag and, if it has several rows, the range at the left."""
    if charted is None or not snapshot.history or not rows:
        return []
    ascii_only = screen.ascii_only
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    label = shorten(printable(charted, screen.encoding), width // 2, "..." if ascii_only else "…")
    if rows == 1:
        values = resample(snapshot.history, max(width - cell_len(label) - 2, 1))
        (chart,) = sparkline(values, 1, blocks)
        return [[Segment(f"{label}  ", _HEADING), Segment(chart, _CHART)]]
    low, high = (f([value for _, value in snapshot.history]) for f in (min, max))
    # The gutter's width must not follow the numbers, or the chart would jump.
    gutter = max(9, len(format_number(low)), len(format_number(high)))
    values = resample(snapshot.history, max(width - gutter - 3, 1))
    low, high = min(values), max(values)
    scale = [format_number(high), *[""] * (rows - 2), format_number(low)]
    axis = " | " if ascii_only else " │ "
    head: Line = [Segment(label, _HEADING)]
    if snapshot.lanes > 1:
        head.append(Segment("  mean over seeds", _DIM))
    return [
        head,
        *(
            [Segment(mark.rjust(gutter) + axis, _DIM), Segment(row, _CHART)]
            for mark, row in zip(scale, sparkline(values, rows, blocks), strict=True)
        ),
    ]


def _progress(
    run: RunInfo, snapshot: Snapshot, width: int, now: float, status: str, *, ascii_only: bool
) -> list[Line]:
    """Return the bar, if the total is known, and the facts, wrapped between facts."""
    step = snapshot.step or 0
    rate = snapshot.steps_per_second
    elapsed = format_duration(now - run.start_time)
    total = run.total_steps
    steps = f"{step:,} / {total:,} steps" if total is not None else f"{step:,} steps"
    facts = [f"{elapsed} elapsed"]
    if rate is not None:
        facts.insert(0, f"{format_number(round(rate) if rate >= 1000 else rate)} steps/s")
    lines: list[Line] = []
    if total is not None and total > 0:
        done = min(max(step / total, 0.0), 1.0)
        if done < 1 and rate is not None and rate > 0 and status == "running":
            facts.append(f"{format_duration((total - step) / rate)} left")
        lines.append(_bar(done, width, ascii_only))
    separator = " | " if ascii_only else " · "
    wrapped = _wrap([steps, *facts], separator, width)
    if snapshot.iteration is not None:
        full = _wrap([steps, f"iteration {snapshot.iteration:,}", *facts], separator, width)
        wrapped = full if len(full) == len(wrapped) else wrapped
    return [*lines, *([Segment(text, _PLAIN)] for text in wrapped)]


def _wrap(facts: Sequence[str], separator: str, width: int) -> list[str]:
    """Join facts into lines of at most `width` cells, broken between facts only."""
    lines = [facts[0]]
    for fact in facts[1:]:
        joined = f"{lines[-1]}{separator}{fact}"
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(fact)
    return lines


def _bar(done: float, width: int, ascii_only: bool) -> Line:
    full, empty = ("#", "-") if ascii_only else ("━", "─")
    percent = f" {math.floor(done * 100):3d}%"
    length = max(width - len(percent), 1)
    filled = math.floor(done * length)
    return [
        Segment(full * filled, _CHART),
        Segment(empty * (length - filled), _DIM),
        Segment(percent, _STRONG),
    ]


def _table(
    entries: Sequence[Entry], width: int, height: int, ascii_only: bool
) -> tuple[list[Line], int]:
    """Return the table and the number of tags that it hides."""
    if not entries:
        text = _WAITING if len(_WAITING) <= width else _WAITING_SHORT
        return [[Segment(text, _DIM)]], 0
    layout = arrange(entries, width, height)
    if layout.hidden and height > 1:
        layout = arrange(entries, width, height - 1)
    lines: list[Line] = []
    for row in range(max(map(len, layout.columns))):
        line: Line = []
        for index, column in enumerate(layout.columns):
            if index:
                line.append(Segment(" " * GAP, _PLAIN))
            cell = column[row] if row < len(column) else None
            content = _cell(cell, layout.width, layout.widths, ascii_only)
            line += Segment.adjust_line_length(content, layout.width)
        lines.append(line)
    if layout.hidden:
        lines.append([Segment(f"{layout.hidden} more tags: enlarge the terminal", _DIM)])
    return lines, layout.hidden


def _cell(content: str | Entry | None, width: int, widths: Widths, ascii_only: bool) -> Line:
    ellipsis = "..." if ascii_only else "…"
    if content is None:
        return []
    if isinstance(content, str):
        return [Segment(shorten(content, width, ellipsis), _HEADING)]
    indent = " " * INDENT if content.group else ""
    room = max(width - len(indent) - widths.numbers, 1)
    name = shorten(content.name, room, ellipsis)
    padding = " " * (width - len(indent) - widths.numbers - cell_len(name) + 2)
    line = [
        Segment(indent + name + padding, _PLAIN),
        Segment(content.value.rjust(widths.value), _UNUSUAL if content.unusual else _STRONG),
    ]
    if widths.std:
        sign = " +-" if ascii_only else " ± "
        std = f"{sign}{content.std.rjust(widths.std)}" if content.std else ""
        line.append(Segment(std.ljust(3 + widths.std), _DIM))
    if widths.low and content.low:
        to = ":" if ascii_only else "…"
        text = f"{content.low.rjust(widths.low)} {to} {content.high.ljust(widths.high)}"
        line.append(Segment(f"  {text}", _DIM))
    return line
