"""Exact 64-bit counter for programs without x64: two 32-bit words with a carry."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import jax
import jax.numpy as jnp
import numpy as np

from metriplex.errors import ConfigurationError, LoggingError

if TYPE_CHECKING:
    from jax.typing import ArrayLike

_WORD = 32
_MASK = 2**_WORD - 1


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counter:
    """A count modulo 2**64: the lower and the higher half of its bits, uint32 of one shape."""

    low: jax.Array
    high: jax.Array


def zero() -> Counter:
    """Return a counter at 0, of shape `[]`; each word has its own buffer."""
    return Counter(low=jnp.zeros((), jnp.uint32), high=jnp.zeros((), jnp.uint32))


def add(counter: Counter, amount: int | ArrayLike) -> Counter:
    """Return `counter + amount`, exact and modulo 2**64.

    The amount is a Python int from 0 to 2**64 - 1, or an array of non-negative integers whose shape
    broadcasts with the counter's.
    """
    low, high = _words(amount)
    total = counter.low + low
    carry = (total < counter.low).astype(jnp.uint32)
    return Counter(low=total, high=counter.high + high + carry)


def to_int(low: ArrayLike, high: ArrayLike) -> int:
    """Return the count of two words as a Python int, on the host."""
    return (int(np.asarray(high).item()) << _WORD) | int(np.asarray(low).item())


def _words(amount: int | ArrayLike) -> tuple[jax.Array, jax.Array]:
    if isinstance(amount, int | np.integer) and not isinstance(amount, bool):
        number = operator.index(amount)
        if not 0 <= number < 2 ** (2 * _WORD):
            raise ConfigurationError(
                f"`amount` must be from 0 to 2**64 - 1; got {number}. A counter only goes forward"
            )
        return jnp.uint32(number & _MASK), jnp.uint32(number >> _WORD)
    array = jnp.asarray(amount)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise LoggingError(
            f"`amount` must be an int or an array of integers; got dtype {array.dtype}. Cast it, "
            "for example with `.astype(jnp.int32)`"
        )
    if array.dtype.itemsize * 8 <= _WORD:
        return array.astype(jnp.uint32), jnp.zeros((), jnp.uint32)
    return (array & _MASK).astype(jnp.uint32), (array >> _WORD).astype(jnp.uint32)


def from_step(step: ArrayLike) -> Counter:
    """Return a counter at a step that a user passed, one integer on the host or on the device.

    Raises `LoggingError` if it is not one integer, or not from 0 to 2**64 - 1.
    """
    if isinstance(step, np.ndarray | np.integer) and np.size(step) == 1:
        step = np.asarray(step).item()  # jax would cut an int64 to 32 bits without x64
    if isinstance(step, int) and not isinstance(step, bool):
        if not 0 <= step < 2**64:
            raise LoggingError(f"`step` must be from 0 to 2**64 - 1; got {step}")
        return add(zero(), step)
    array = jnp.asarray(step)
    if array.size != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise LoggingError(f"`step` must be one integer; got {array.dtype} {list(array.shape)}")
    return add(zero(), array.reshape(()))
