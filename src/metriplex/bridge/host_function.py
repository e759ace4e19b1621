"""Call a host function with NumPy values from compiled code."""

from __future__ import annotations

import atexit
import functools
import logging
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, final

import jax
import numpy as np

from metriplex.bridge import receiver
from metriplex.bridge.emit import emit
from metriplex.bridge.packing import Header, Kind, is_real_dtype, make_schema, pack
from metriplex.bridge.tracing import require_host
from metriplex.errors import ConfigurationError, LoggingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metriplex.bridge.rows import Rows

logger = logging.getLogger("metriplex")

P = ParamSpec("P")


def callback_with_numpy_wrapper(function: Callable[P, object]) -> Callable[P, None]:
    """Return a wrapper that calls a host function from compiled code with NumPy values.

    metriplex's receiver thread calls the function after the arrays have reached the host, in the
    order of their arrival, under `vmap` once for each lane. The function may be slow, do I/O and
    call jax. An exception of the function is logged and stops nothing. A normal exit of the process
    waits for the calls.

    Args:
        function: Takes pytrees whose leaves are real arrays or plain Python values.

    Returns:
        A function of the same arguments, for eager and for compiled code. Arrays, traced or not,
        reach `function` as NumPy arrays of the same shape and dtype, bit for bit. All other leaves
        (Python numbers, strings, None, ...) are passed unchanged. The wrapper raises a
        `LoggingError` at trace time for an array that is complex or a PRNG key.

    Raises:
        ConfigurationError: `function` can't be called.
        MetriplexError: The wrapper is made inside a compiled function.
    """
    require_host("callback_with_numpy_wrapper")
    if not callable(function):
        raise ConfigurationError(
            f"`callback_with_numpy_wrapper` wraps a function; got {function!r}: pass the function "
            f"itself, not what it returns"
        )
    _barrier_at_exit()
    handles: dict[Any, int] = {}

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        slots = tuple(_slot(leaf) for leaf in leaves)
        values = {
            str(index): _one_row(leaf)
            for index, (leaf, slot) in enumerate(zip(leaves, slots, strict=True))
            if slot.crosses
        }
        try:
            handle = handles.get((treedef, slots))
        except TypeError:  # a static leaf can't be hashed: this call gets its own handle
            handle = receiver.register(_Call(function, treedef, slots))
        if handle is None:
            handle = handles[treedef, slots] = receiver.register(_Call(function, treedef, slots))
        header = dict.fromkeys(Header, -1) | {Header.RUN: handle, Header.VALID: 1}
        emit(pack(make_schema(Kind.RECORD, values), header, values, {})[None])

    return wrapper


@final
class _Slot(NamedTuple):
    """The way of one leaf of the arguments to the host function.

    If `crosses` is True, the row holds the leaf's value; else `static` is the leaf itself. The type
    of every array is `np.ndarray`.
    """

    type: type
    crosses: bool
    static: Any = None


def _slot(leaf: Any) -> _Slot:
    # The row also holds Python numbers, so a Python loop with a counter needs only one handle.
    if type(leaf) in (bool, float) or (type(leaf) is int and -(2**63) <= leaf < 2**63):
        return _Slot(type(leaf), crosses=True)
    is_numpy = isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind not in "OSUMm"
    if not is_numpy and not isinstance(leaf, jax.Array):
        return _Slot(type(leaf), crosses=False, static=leaf)
    if not is_real_dtype(leaf.dtype):
        raise _no_array(leaf)
    return _Slot(np.ndarray, crosses=True)


def _no_array(leaf: Any) -> LoggingError:
    is_complex = "complex" in str(leaf.dtype)
    fix = "its real and imaginary part" if is_complex else "`random.key_data` of it"
    return LoggingError(
        f"an argument of a function wrapped by `callback_with_numpy_wrapper` has dtype "
        f"{leaf.dtype}; expected real numbers or bools: pass {fix}"
    )


def _one_row(leaf: Any) -> jax.Array | np.ndarray:
    """Return a leaf with a leading axis, so that a scalar stays an array, exact to the bit."""
    return leaf[None] if isinstance(leaf, jax.Array) else np.asarray(leaf)[None]


@final
class _Call:
    """The sink that calls a host function with the values of a row."""

    def __init__(
        self,
        function: Callable[..., object],
        treedef: jax.tree_util.PyTreeDef,
        slots: Sequence[_Slot],
    ) -> None:
        self._function = function
        self._treedef = treedef
        self._slots = slots

    def receive(self, rows: Rows) -> None:
        """Call the function once for each row, on the receiver thread."""
        for row in rows:
            leaves = [slot.static for slot in self._slots]
            for index, value in row.values.items():
                array = value.reshape(value.shape[1:])
                is_array = self._slots[int(index)].type is np.ndarray
                leaves[int(index)] = array if is_array else array.item()
            args, kwargs = jax.tree.unflatten(self._treedef, leaves)
            try:
                self._function(*args, **kwargs)
            except BaseException:  # also SystemExit, as the thread serves every run of the process
                logger.exception("host function `%s` failed; training goes on", self._function)


@functools.cache
def _barrier_at_exit() -> None:
    # Registered after the import of jax, so it runs before jax's own handler.
    atexit.register(receiver.barrier)
