"""Make messages printable: tags, names and errors of others reach the log and the terminal."""

from __future__ import annotations

import logging
from typing import final


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
        return True


logging.getLogger("metriplex").addFilter(_Printable())
