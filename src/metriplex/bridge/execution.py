"""Tell executions of programs apart: a number for each, drawn on the host.

A program that gets the run as an argument gets the number with it. A program that closes over the
run asks the host once, where it makes its state.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metriplex.bridge import ffi
from metriplex.bridge.ffi_handlers import serves
from metriplex.bridge.numbers import next_number
from metriplex.bridge.stop import INTERRUPT, stop
from metriplex.bridge.tracing import is_tracing

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.bridge.ffi_handlers import Transport

_draws = itertools.count()


def draw(*, on_host: bool, transport: Transport) -> jax.Array:
    """Return the number of an execution, int32 `[]`, which all its lanes share.

    Args:
        on_host: True to ask the host in each execution; False for 0, as the program may not call
            the host, has to be the same in each process, or runs once a device.
        transport: The kind of the call.
    """
    if not is_tracing():
        return jnp.asarray(next_number())
    if not on_host or jax.distributed.is_initialized():
        return jnp.int32(0)
    # Two calls of one program must not be merged: each has a parameter of its own.
    return _bind()(call=next(_draws) % 2**31, by_ffi=serves(transport))


def _draw_by_ffi(call: int) -> jax.Array:
    number = ffi.draw(call)
    block = jnp.zeros((0, 0), jnp.uint32)
    lax.cond(number >= 0, lambda: None, lambda: stop(block, INTERRUPT, jnp.uint32(ffi.STOP)))
    return number


@functools.cache
def _bind() -> Callable[..., Any]:
    """Return the primitive that asks the host, which `jax.checkpoint` does not repeat.

    With a call of the host alone, the rows that the backward pass repeats would be those of another
    execution. The public names of these parts import Pallas: see `metriplex.bridge.tracing`.
    """
    from jax._src.core import Primitive, ShapedArray
    from jax._src.interpreters import mlir, partial_eval

    kind = jax.ShapeDtypeStruct((), np.int32)
    primitive = Primitive("metriplex_execution")
    primitive.def_impl(lambda **_: jnp.asarray(next_number()))
    primitive.def_abstract_eval(lambda **_: ShapedArray((), np.dtype(np.int32)))

    def call_back(*, call: int, by_ffi: bool) -> jax.Array:
        del by_ffi
        return jax.pure_callback(lambda _: next_number(), kind, np.int32(call))

    def call(*, call: int, by_ffi: bool) -> jax.Array:
        return _draw_by_ffi(call) if by_ffi else call_back(call=call, by_ffi=by_ffi)

    def keep(_saveable: object, _unknown: object, _present: object, equation: Any) -> Any:
        return equation, None, [False], [True], list(equation.outvars)

    for function, platform in ((call_back, None), (call, "cpu")):
        rule = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    partial_eval.partial_eval_jaxpr_custom_rules[primitive] = keep
    return primitive.bind
