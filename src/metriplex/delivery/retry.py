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
    """Make a call, and make it again after each `OSError`.

    Args:
        call: The call.
        pauses: Seconds before each further try.
        wait: Waits that many seconds after an error; returns True to make the next try the last.

    Raises:
        BaseException: Whatever the last try raises. Only `OSError` has a further try.
    """
    for pause in pauses:
        try:
            return call()
        except OSError as error:
            if wait(pause, error):
                break
    return call()
