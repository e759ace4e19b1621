"""Making a call again after an error that may pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 10.0)
"""Pauses between the tries of a call that raised an `OSError`."""


def retry(
    call: Callable[[], None],
    pauses: Iterable[float],
    wait: Callable[[float, OSError], object],
) -> None:
    """Make a call, and make it again after each `OSError`, as often as there are pauses.

    `wait` waits that many seconds after an error, and returns True to make the next try the last.
    Whatever the last try raises is raised.
    """
    for pause in pauses:
        try:
            return call()
        except OSError as error:
            if wait(pause, error):
                break
    return call()
