"""Number the dispatches, traces and executions of programs, on the host."""

from __future__ import annotations

import collections
import itertools
import os
from typing import TYPE_CHECKING, TypeVar

import jax
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_Key = TypeVar("_Key")

# A state of a checkpoint keeps its number, so another process begins elsewhere.
_numbers = itertools.count(int.from_bytes(os.urandom(4), "little"))
# What a program holds is the same in each process, so that jax finds the program in its cache.
_traces = itertools.count()


def fresh(handle: np.ndarray, *, traced: bool = False) -> np.ndarray:
    """Return a run handle, int32 `[2]`, with a new number. Any thread."""
    number = next_number(_traces if traced else _numbers)
    return np.stack([handle[..., 0], np.full_like(handle[..., 0], number)], axis=-1)


def next_number(numbers: Iterator[int] = _numbers) -> np.int32:
    """Return the next number from 0 to 2**31 - 1, of the executions if nothing else is said."""
    if jax.distributed.is_initialized():  # processes of one program must get the same values
        return np.int32(0)
    return np.int32(next(numbers) % 2**31)


_drawn: collections.OrderedDict[tuple[int, int], int] = collections.OrderedDict()
"""Numbers that executions on several devices have drawn, by XLA's number and the call."""

_KEPT = 4096


def number_of(execution: int, call: int) -> int:
    """Return the number that an execution draws in a call: the same for each of its devices.

    FFI handlers call, on threads of XLA or on the main thread.
    """
    return first(_drawn, (execution, call), int(next_number()))


def first(found: collections.OrderedDict[_Key, int], key: _Key, value: int) -> int:
    """Return the value that a key got first; the newest `_KEPT` keys are known."""
    kept = found.setdefault(key, value)
    while len(found) > _KEPT:
        found.popitem(last=False)
    return kept
