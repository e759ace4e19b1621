"""Format the findings of the checks as lines of plain text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

OK = "ok"
WARNING = "warning"
BROKEN = "broken"

_STATUS_WIDTH = max(map(len, (OK, WARNING, BROKEN))) + 2
_MIN_TEXT = 24


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    status: str  # `ok`, `warning` (partly unusable, or not tried) or `broken`
    name: str
    text: str
    remedy: str = ""
    """Instruction that fixes the problem; empty if none is needed, or `text` contains it."""


def layout(finding: Finding, name_width: int, width: int) -> list[str]:
    """Return the lines of one finding: status, name and text in columns, the remedy below.

    The text wraps at spaces to fit a terminal of `width` columns, but to at least 24 columns.
    """
    head = f"{finding.status:<{_STATUS_WIDTH}}{plain(finding.name):<{name_width}}  "
    room = max(width - len(head), _MIN_TEXT)
    lines = _wrap(finding.text, room)
    if finding.remedy:
        lines += _wrap(f"-> {finding.remedy}", room)
    return [head + lines[0], *(" " * len(head) + line for line in lines[1:])]


def summary(findings: Sequence[Finding], width: int) -> list[str]:
    """Return the summary, which starts with an empty line."""
    broken = [finding.name for finding in findings if finding.status == BROKEN]
    warned = [finding.name for finding in findings if finding.status == WARNING]
    text = f"Broken: {', '.join(broken)}." if broken else "Everything that is installed works."
    if warned:
        text += f" Mind the warnings: {', '.join(warned)}."
    return ["", *_wrap(text, width)]


def plain(text: str) -> str:
    """Return untrusted text as one line of printable ASCII, without escape sequences."""
    text = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    return "".join(character for character in text if character.isprintable())


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        plain(text), max(width, _MIN_TEXT), break_long_words=False, break_on_hyphens=False
    ) or [""]
