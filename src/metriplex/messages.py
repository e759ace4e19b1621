"""Make messages printable: tags, names and errors of others reach the log and the terminal."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, final


def printable(text: str) -> str:
    r"""Return text in one line without control characters, which are escaped.

    >>> printable("loss\x1b[31m\n")
    'loss\\x1b[31m\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )


def print_line(text: str, *, error: bool = False) -> None:
    """Write text as one printable line to standard output, or to standard error.

    Letters that the stream's encoding lacks are escaped.
    """
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    stream.write(f"{line}\n")
    stream.flush()


@final
class _Printable(logging.Filter):
    """Make the message of every record of the log printable; any thread calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - logging reports it
            return True
        if not message.isprintable():
            record.msg, record.args = printable(message), ()
        if record.exc_info not in (None, False) and record.exc_text is None:
            record.exc_text = _traceback(record.exc_info)  # formatters take it as it is
        return True


def _traceback(info: Any) -> str:
    """Return a printable traceback; all lines of an error's text but the first are indented."""
    lines: list[str] = []
    for part in traceback.TracebackException(*info).format():
        first, *more = part.removesuffix("\n").split("\n")
        lines += [first, *(line if line[:1] in ("", " ") else f"    {line}" for line in more)]
    return "\n".join(map(printable, lines))


logging.getLogger("metriplex").addFilter(_Printable())
