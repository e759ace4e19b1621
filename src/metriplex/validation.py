"""Check single values that users pass."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np

from metriplex.errors import ConfigurationError, LoggingError


def check_count(name: str, value: Any, *, least: int) -> int:
    """Return `value` as an int; raise a ConfigurationError unless it is an int >= `least`."""
    try:
        count = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        is_whole = isinstance(value, float) and value.is_integer() and value >= least
        raise ConfigurationError(
            f"`{name}` must be an int of at least {least}; got {value!r}: "
            + (f"pass `int({name})`" if is_whole else f"pass {least} or more")
        )
    return count


def check_positive(name: str, value: Any) -> float:
    """Return `value` as a float; raise a ConfigurationError unless it is finite and above 0."""
    if not is_real(value) or not 0 < value < math.inf:
        raise ConfigurationError(f"`{name}` must be a number above 0; got {value!r}")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Return `value`; raise a ConfigurationError unless it is one of the choices."""
    if isinstance(value, str | None) and value in choices:
        return value
    raise ConfigurationError(
        f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}"
    )


def check_tag(tag: Any) -> str:
    """Return `tag`; raise a LoggingError unless it is a non-empty string."""
    if not isinstance(tag, str) or not tag:
        raise LoggingError(
            f"a tag must be a string that is not empty; got {tag!r}: name it, for example "
            f'"train/loss"'
        )
    return tag


def check_step(step: Any) -> int:
    """Return the step of a record as an int; raise a LoggingError unless it is one from 0 on."""
    array = np.asarray(step)
    number = array.item() if array.dtype.kind in "iu" and array.size == 1 else -1
    if not 0 <= number < 2**64:
        raise LoggingError(
            f"`step` must be one integer from 0 to 2**64 - 1, the environment steps taken so far; "
            f"got {step!r}: pass for example `int(step)`"
        )
    return number


def is_real(value: Any) -> bool:
    """Return True if `value` is a real number and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
