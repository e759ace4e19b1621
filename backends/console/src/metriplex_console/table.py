"""Layout of the table: groups of tags under headings, in as many columns as there is room for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from rich.cells import cell_len

from metriplex_console.board import as_float
from metriplex_console.formatting import format_number, format_value, printable, split_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex_console.board import TagValues

GAP = 4
INDENT = 2
_FIRST_GROUPS = ("episode", "train", "eval")
_LAST_GROUPS = ("time",)
_LINES_A_COLUMN = 6
_WIDEST_COLUMN = 44
_SHORTEST_NAME = 11


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One tag as text: its group (empty for a tag without `/`), its last part, and its numbers.

    `std`, `low` and `high` are empty for one lane. `unusual` is True if the value is unknown or not
    finite.
    """

    group: str
    name: str
    value: str
    std: str
    low: str
    high: str
    unusual: bool


@final
@dataclass(frozen=True, slots=True)
class Widths:
    """Widths in cells of the parts of every entry; 0 for a part that isn't shown."""

    name: int
    value: int
    std: int = 0
    low: int = 0
    high: int = 0

    @property
    def numbers(self) -> int:
        """Return the cells right of the name, with the gap before each part."""
        width = 2 + self.value
        if self.std:
            width += 3 + self.std
        if self.low:
            width += 2 + self.low + 3 + self.high
        return width

    @property
    def natural(self) -> int:
        """Return the cells of a column in which no name is shortened."""
        return INDENT + self.name + self.numbers


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """The lines of each column (a heading, an entry, or None for an empty line) and their widths.

    `width` are the cells of one column; `hidden` is the number of tags for which there is no room.
    """

    columns: tuple[tuple[str | Entry | None, ...], ...]
    width: int
    widths: Widths
    hidden: int


def to_entry(values: TagValues, encoding: str = "utf-8") -> Entry:
    """Return the newest values of a tag as text that a terminal of an encoding prints as it is."""
    group, name = split_tag(values.tag)
    summary = values.summary()
    value = format_value(values.tag, summary.value)
    spread = (summary.std, summary.low, summary.high)
    std, low, high = ("" if number is None else format_number(number) for number in spread)
    unusual = not math.isfinite(as_float(summary.value))
    group, name = printable(group, encoding), printable(name, encoding)
    return Entry(group, name, value, std, low, high, unusual)


def arrange(entries: Sequence[Entry], width: int, height: int) -> Layout:
    """Arrange tags, given in the order of first appearance, in a field of cells and lines.

    No column is longer than `height`, and all columns fit into `width`.
    """
    groups = _grouped(entries)
    widths = _measure(entries, width)
    lines = len(entries) + len(groups)
    most = max(1, (width + GAP) // (widths.natural + GAP))
    count = min(most, max(1, math.ceil(lines / _LINES_A_COLUMN)))
    columns = _fit(groups, count, height) or _fit(groups, most, height)
    if columns is None:
        count, columns = most, _split(groups, most, height)[:most]
    count = max(count, len(columns))
    share = (width - GAP * (count - 1)) // count
    column_width = min(share, max(_WIDEST_COLUMN, widths.natural))
    shown = sum(isinstance(line, Entry) for column in columns for line in column)
    return Layout(tuple(map(tuple, columns)), column_width, widths, len(entries) - shown)


def _grouped(entries: Sequence[Entry]) -> list[list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)

    def rank(group: str) -> int:
        root = group.partition("/")[0]
        if root in _FIRST_GROUPS:
            return _FIRST_GROUPS.index(root)
        return len(_FIRST_GROUPS) + (root in _LAST_GROUPS)

    return [groups[group] for group in sorted(groups, key=rank)]


def _measure(entries: Sequence[Entry], width: int) -> Widths:
    """Return the widths of all parts; a part that leaves no room for the names gets 0."""

    def widest(part: str) -> int:
        return max((cell_len(getattr(entry, part)) for entry in entries), default=0)

    name = widest("name")
    value = max(widest("value"), 7)  # so that columns don't move with every digit
    plain = Widths(name, value)
    if not widest("std"):
        return plain
    with_std = Widths(name, value, max(widest("std"), 6))
    with_range = replace(with_std, low=max(widest("low"), 7), high=max(widest("high"), 7))
    # Whole names matter more than a range, and less than a standard deviation.
    if with_range.natural <= width:
        return with_range
    return with_std if INDENT + min(name, _SHORTEST_NAME) + with_std.numbers <= width else plain


_Column = list["str | Entry | None"]


def _fit(groups: Sequence[list[Entry]], count: int, height: int) -> list[_Column] | None:
    """Return the lowest arrangement of all tags in `count` columns; None if there is none.

    Groups stay whole, with empty lines between them, if that does not cost much height.
    """
    total = sum(len(group) + 1 for group in groups)
    lowest = max(1, math.ceil(total / count))
    for spaced in (True, False):
        for limit in range(lowest, min(height, lowest * 3 // 2 + 2) + 1):
            columns = _whole(groups, limit, spaced=spaced)
            if columns is not None and len(columns) <= count:
                return columns
    for limit in range(lowest, height + 1):
        columns = _split(groups, count, limit)
        if len(columns) <= count:
            return columns
    return None


def _whole(groups: Sequence[list[Entry]], height: int, *, spaced: bool) -> list[_Column] | None:
    columns: list[_Column] = [[]]
    for group in groups:
        block: _Column = [*_heading(group), *group]
        if len(block) > height:
            return None
        gap: _Column = [None] if spaced and columns[-1] else []
        if len(columns[-1]) + len(gap) + len(block) > height:
            columns.append(block)
        else:
            columns[-1] += gap + block
    return columns


def _split(groups: Sequence[list[Entry]], count: int, height: int) -> list[_Column]:
    """Fill column after column; a group that continues in a column repeats its heading."""
    columns: list[_Column] = [[]]
    for group in groups:
        for index, entry in enumerate(group):
            heading = _heading(group)
            starts = index == 0 or not columns[-1]
            if len(columns[-1]) + (len(heading) if starts else 0) + 1 > height:
                columns.append([])
                starts = True
            if len(columns) > count:
                return columns
            columns[-1] += [*heading, entry] if starts and height > len(heading) else [entry]
    return columns


def _heading(group: Sequence[Entry]) -> list[str | Entry | None]:
    return [group[0].group] if group[0].group else []
