"""Text for numbers, durations and names. Pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from metriplex import Scalar

UNKNOWN = "unknown"
_THOUSANDS_UP_TO = 10**15


def is_learning_rate(tag: str) -> bool:
    """Return True if a tag names a learning rate, whose NaN means an unknown rate.

    >>> is_learning_rate("train/learning_rate/critic"), is_learning_rate("train/loss")
    (True, False)
    """
    return "learning_rate" in tag.split("/")


def format_number(value: Scalar) -> str:
    """Format a number, also NaN or an infinity, in four significant digits; integers in full.

    >>> [format_number(x) for x in (1234567, 12345.678, 487.25, 0.5, 3e-4, 1.5e-7, 2.5e9)]
    ['1,234,567', '12,346', '487.2', '0.5', '0.0003', '1.5e-7', '2.5e9']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < _THOUSANDS_UP_TO else _scientific(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if value == 0:
        return "0"
    exponent = int(f"{value:.3e}".partition("e")[2])  # after rounding: 999.96 counts as 1000
    if exponent < -4 or exponent > 6:
        return _scientific(value)
    if exponent >= 3:
        return f"{value:,.0f}"
    if exponent >= 0:
        return f"{value:.{3 - exponent}f}"
    return f"{value:.{3 - exponent}f}".rstrip("0")


def _scientific(value: float) -> str:
    try:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
    except OverflowError:  # an integer beyond the range of a float
        return f"{'-' if value < 0 else ''}10^{len(str(abs(value))) - 1}"
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_value(tag: str, value: Scalar) -> str:
    """Format the value of a tag for a table; a NaN learning rate is `unknown`.

    >>> format_value("train/learning_rate", float("nan")), format_value("train/loss", 0.25)
    ('unknown', '0.25')
    """
    if isinstance(value, float) and math.isnan(value) and is_learning_rate(tag):
        return UNKNOWN
    return format_number(value)


def format_plain(value: Scalar) -> str:
    """Format a number for a line that programs read: six digits, no thousands separator.

    >>> [format_plain(x) for x in (1234567, 12345.678, 3e-4, True)]
    ['1234567', '12345.7', '0.0003', '1']
    """
    return str(int(value)) if isinstance(value, int) else f"{value:.6g}"


def format_duration(seconds: float) -> str:
    """Format a duration as `m:ss`, `h:mm:ss` or `{days}d h:mm:ss`; negative ones count as 0.

    >>> [format_duration(s) for s in (5, 65.7, 3600, 200_000, float("inf"))]
    ['0:05', '1:05', '1:00:00', '2d 7:33:20', '-']
    """
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(max(0, int(seconds)), 60)  # a clock may be set back
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02d}:{second:02d}"
    if hours:
        return f"{hour}:{minute:02d}:{second:02d}"
    return f"{minute}:{second:02d}"


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""Escape characters that would move a terminal's cursor, break a line, or can't be encoded.

    >>> printable("a\nb\x1b[2J"), printable("\u03b5-greedy", "ascii")
    ('a\\nb\\x1b[2J', '\\u03b5-greedy')
    """
    if not text.isprintable():
        text = _escape_unprintable(text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escape_unprintable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, width: int, ellipsis: str = "…") -> str:
    """Shorten a text to `width` cells by cutting its middle; the ends are more telling.

    >>> shorten("value_function_explained_variance", 16)
    'value_f…variance'
    """
    if cell_len(text) <= width:
        return text
    room = width - cell_len(ellipsis)
    if room < 1:
        return set_cell_size(text, max(width, 0))
    tail = _last_cells(text, (room + 1) // 2)
    return set_cell_size(text, room - cell_len(tail)) + ellipsis + tail


def _last_cells(text: str, width: int) -> str:
    """Return the end of a text that fits into `width` cells, of at most 8 characters a cell."""
    first = max(len(text) - 8 * width, 0)
    for begin in range(len(text), first, -1):
        width -= cell_len(text[begin - 1])
        if width < 0:
            return text[begin:]
    return text[first:]


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into its group (the text before the last `/`) and its name.

    >>> split_tag("train/policy/loss"), split_tag("loss")
    (('train/policy', 'loss'), ('', 'loss'))
    """
    group, _, name = tag.rpartition("/")
    return (group, name) if name else ("", tag)


def key_values(pairs: Iterable[tuple[str, str]], reserved: Container[str] = ()) -> str:
    r"""Join names and values into one line that programs can parse: `a=1 b=2`.

    In a name, characters that would end it are escaped, and so is the first character of a
    `reserved` name. A value with spaces is quoted as in Python.

    >>> print(key_values([("a b", "1"), ("c=\n", "two words"), ("step", "2")], reserved={"step"}))
    a\x20b=1 c\x3d\n='two words' \x73tep=2
    """
    return " ".join(
        (f"\\x{ord(name[0]):02x}{name[1:]}" if name in reserved else _name(name))
        + f"={_value(value)}"
        for name, value in pairs
    )


def _name(text: str) -> str:
    if text.isprintable() and not any(c in "\\= " for c in text):
        return text
    return "".join(
        f"\\x{ord(c):02x}" if c in "= " else c.encode("unicode_escape").decode() for c in text
    )


def _value(text: str) -> str:
    plain = text.isprintable() and text[:1] not in ("", "'", '"') and " " not in text
    return text if plain else repr(text)


def format_hparams(hparams: Mapping[str, Scalar | str]) -> str:
    """Format hyper-parameters as one line; a text with spaces is quoted.

    >>> format_hparams({"lr": 3e-4, "env": "CartPole", "note": "try 2"})
    "lr=0.0003 env=CartPole note='try 2'"
    """
    return key_values(
        (name, str(value) if isinstance(value, bool | str) else format_plain(value))
        for name, value in hparams.items()
    )
