"""Tell executions of programs apart: a number for each, drawn on the host.

A program that gets the run as an argument gets the number with it. A program that closes over the
run asks the host once, where it makes its state.
"""

from __future__ import annotations

import functools
import itertools
import os
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from metriplex.bridge.tracing import is_tracing

if TYPE_CHECKING:
    from collections.abc import Callable

# A state of a checkpoint keeps its number, so another process begins elsewhere.
_numbers = itertools.count(int.from_bytes(os.urandom(4), "little"))
_draws = itertools.count()


def fresh(handle: np.ndarray) -> np.ndarray:
    """Return a run handle, int32 `[2]`, with a new number of a dispatch. Any thread."""
    return np.stack([handle[..., 0], np.full_like(handle[..., 0], _next_number())], axis=-1)


def _next_number() -> np.int32:
    if jax.distributed.is_initialized():  # processes of one program must get the same values
        return np.int32(0)
    return np.int32(next(_numbers) % 2**31)


def draw(*, on_host: bool) -> jax.Array:
    """Return the number of an execution, int32 `[]`, which all its lanes share.

    Args:
        on_host: True to ask the host in each execution; False for 0, as the program may not call
            the host, has to be the same in each process, or runs once a device.
    """
    if not is_tracing():
        return jnp.asarray(_next_number())
    if not on_host or jax.distributed.is_initialized():
        return jnp.int32(0)
    # Two calls of one program must not be merged: each has a parameter of its own.
    return _bind()(call=next(_draws))


@functools.cache
def _bind() -> Callable[..., Any]:
    """Return the primitive that asks the host, which `jax.checkpoint` does not repeat.

    With a callback alone, the rows that the backward pass repeats would be those of another
    execution. The public names of these parts import Pallas: see `metriplex.bridge.tracing`.
    """
    from jax._src.core import Primitive, ShapedArray
    from jax._src.interpreters import mlir, partial_eval

    kind = jax.ShapeDtypeStruct((), np.int32)
    primitive = Primitive("metriplex_execution")
    primitive.def_impl(lambda **_: jnp.asarray(_next_number()))
    primitive.def_abstract_eval(lambda **_: ShapedArray((), np.dtype(np.int32)))

    def call_host(*, call: int) -> jax.Array:
        return jax.pure_callback(lambda _: _next_number(), kind, np.int32(call % 2**31))

    def keep(_saveable: object, _unknown: object, _present: object, equation: Any) -> Any:
        return equation, None, [False], [True], list(equation.outvars)

    mlir.register_lowering(primitive, mlir.lower_fun(call_host, multiple_results=False))
    partial_eval.partial_eval_jaxpr_custom_rules[primitive] = keep
    return primitive.bind
