"""What was found, as lines of plain text."""

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
    """What one check found.

    Attributes:
        status: `ok`, `warning` (some of it can't be used, or can't be tried) or `broken`.
        name: What was checked.
        text: What was found.
        remedy: How to mend it; empty if there is nothing to mend, or `text` says it.
    """

    status: str
    name: str
    text: str
    remedy: str = ""


def layout(finding: Finding, name_width: int, width: int) -> list[str]:
    """The lines of one finding: status, name and text in columns, the remedy below the text.

    Args:
        finding: What was found.
        name_width: Columns of the longest name.
        width: Columns of the terminal; texts wrap at spaces to fit, to no less than 24 columns.
    """
    head = f"{finding.status:<{_STATUS_WIDTH}}{plain(finding.name):<{name_width}}  "
    room = max(width - len(head), _MIN_TEXT)
    lines = _wrap(finding.text, room)
    if finding.remedy:
        lines += _wrap(f"-> {finding.remedy}", room)
    return [head + lines[0], *(" " * len(head) + line for line in lines[1:])]


def summary(findings: Sequence[Finding], width: int) -> list[str]:
    """The last lines, after an empty one."""
    broken = [finding.name for finding in findings if finding.status == BROKEN]
    warned = [finding.name for finding in findings if finding.status == WARNING]
    text = f"Broken: {', '.join(broken)}." if broken else "Everything that is installed works."
    if warned:
        text += f" Mind the warnings: {', '.join(warned)}."
    return ["", *_wrap(text, width)]


def plain(text: str) -> str:
    """Text of any origin as one line of ASCII that no terminal takes for a command."""
    text = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    return "".join(character for character in text if character.isprintable())


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        plain(text), max(width, _MIN_TEXT), break_long_words=False, break_on_hyphens=False
    ) or [""]
