"""Call the host from compiled code on a CPU by handlers of XLA's FFI, made of ctypes alone.

A row takes about half of the time that it takes by a callback: `benchmarks/iteration_cost.py`.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp

from metriplex.bridge.interrupts import describe
from metriplex.bridge.xla_api import CANCELLED, Api, CallFrame, Error, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Push = Callable[[bytes, tuple[int, ...], int | None, int], str | None]

logger = logging.getLogger("metriplex")

COPIED = "metriplex_rows"
"""The target of a program that is one program for all of its devices, which send the same block."""

OWN = "metriplex_rows_of_a_device"
"""The target of code that runs once a device, as in `shard_map`: each device has its own block."""

DRAW = "metriplex_execution"
"""The target that returns the number of an execution."""

TAKEN, UNKNOWN, STOP = range(3)
"""The results of a call: the block is with the host; it may not be; it is, and the program is to be
stopped. The buffer holds `UNKNOWN` before the call, as an exception can keep the handler from its
first line."""


@final
class Handlers:
    """The handlers of all targets. XLA calls them on threads of its own, or on the main thread.

    Args:
        push: Takes the words of a block as bytes, its shape, and the number of the execution and of
            the device if all devices send the same block; None and 0 if each has its own. Returns
            why the program is to be stopped; None if it is to go on.
        draw: Takes the number of the execution in XLA and of the call in the program. Returns the
            number of the execution, the same for all devices.
        header: The text of the C header of jaxlib.
        stops: By target that stops the program, the message of its error. The first one's is
            replaced by what `push` returns.
    """

    def __init__(
        self,
        push: Push,
        draw: Callable[[int, int], int],
        header: str,
        stops: Mapping[str, str],
    ) -> None:
        self._push = push
        self._draw = draw
        self._dropped: str | None = None
        self._api = Api(header)
        self._kept: dict[str, Any] = {
            target: _make_handler(
                callable, functools.partial(self._send, copied=target == COPIED), self._strike
            )
            for target in (COPIED, OWN)
        }  # `callable` is False for an address, which is no error for XLA
        self._kept[DRAW] = _make_handler(callable, self._number, self._strike_number)
        self._errors = {
            target: Error(ctypes.sizeof(Error), None, message.encode(), CANCELLED)
            for target, message in stops.items()
        }
        for target, error in self._errors.items():
            result = functools.partial(callable)
            self._kept[target] = _make_handler(
                result,
                functools.partial(self._stop, error=error, result=result),
                lambda *_: None,  # the program ends in any case
            )

    def register(self) -> None:
        """Make the targets known to XLA. Raise what jaxlib raises if it refuses them."""
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        sys.unraisablehook = functools.partial(self._note, sys.unraisablehook)
        for target, handler in self._kept.items():
            capsule = new(ctypes.cast(handler, ctypes.c_void_p), None, None)
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")

    def _strike(self, frame: CallFrame, error: BaseException) -> None:
        """Have the program stopped; the result says if its block was taken before."""
        self._say(describe(error))
        if _result(frame).value == TAKEN:
            _result(frame).value = STOP

    def _strike_number(self, frame: CallFrame, error: BaseException) -> None:
        """Have the program stopped, as a number of -1 does."""
        self._say(describe(error))
        _result(frame).value = 2**32 - 1

    def _note(self, hook: Callable[[Any], object], unraisable: Any) -> None:
        """Keep what Python drops: an exception of a signal handler that landed in a host call.

        It can land before the first line of the call, or in a finalizer of anything else, as the
        garbage collector can run in the call.
        """
        if getattr(unraisable.object, "__qualname__", None) == _FINALIZER:
            self._say(describe(unraisable.exc_value))
        elif isinstance(unraisable.exc_value, KeyboardInterrupt) and _is_in_call():
            self._dropped = describe(unraisable.exc_value)
        else:
            hook(unraisable)

    def _send(self, frame: CallFrame, *, copied: bool) -> None:
        if self._api.answer(frame):
            return
        taken = False
        try:
            reason = self._take(frame, copied=copied)
            taken = True
            if self._dropped is not None:
                reason, self._dropped = self._dropped, None
            if reason is None:
                _result(frame).value = TAKEN
                return
        except BaseException as error:  # noqa: BLE001 - for want of memory, or of a signal handler
            reason = None if _is_own(error) else describe(error)
            if not taken:
                self._take_again(frame, copied=copied)
        if reason is not None:
            self._say(reason)
        _result(frame).value = TAKEN if reason is None else STOP

    def _say(self, reason: str) -> None:
        next(iter(self._errors.values())).message = reason.encode()

    def _take_again(self, frame: CallFrame, *, copied: bool) -> None:
        try:
            self._take(frame, copied=copied)
        except Exception:
            logger.exception("a block of rows is lost on its way to the host")

    def _stop(self, frame: CallFrame, *, error: Error, result: Any) -> None:
        """Push the block, if its own call has not; the error that stops the program is `result`."""
        if self._api.answer(frame):
            # From now on the handler returns a new error for each call. The function of the API
            # drops the second argument, the frame, as C functions of this convention do.
            make = self._api.function("XLA_FFI_Error_Create", frame.api)
            result.__setstate__((make, (ctypes.byref(error),), {}, None))
            return
        known = ctypes.c_uint32.from_address(frame.operands.buffers[1].contents.data)
        if known.value != STOP:
            self._take(frame, copied=False)

    def _take(self, frame: CallFrame, *, copied: bool) -> str | None:
        block = frame.operands.buffers[0].contents
        shape = tuple(block.dims[: block.rank])
        size = 4
        for length in shape:
            size *= length
        words = ctypes.string_at(block.data, size)
        return self._push(words, shape, *(self._place(frame) if copied else (None, 0)))

    def _number(self, frame: CallFrame) -> None:
        if not self._api.answer(frame):
            call = ctypes.c_int32.from_address(frame.operands.buffers[0].contents.data)
            _result(frame).value = self._draw(self._place(frame)[0], call.value)

    def _place(self, frame: CallFrame) -> tuple[int, int]:
        """Return the number of the execution and of the device."""
        query = Query(ctypes.sizeof(Query), None, frame.context, 0)
        self._api.function("XLA_FFI_RunId_Get", frame.api)(query)
        execution = query.value
        query.value = 0
        self._api.function("XLA_FFI_DeviceOrdinal_Get", frame.api)(query)  # which has 32 bits
        return execution, query.value


def _is_own(error: BaseException) -> bool:
    """Return True if no signal handler, as that of Ctrl-C, has raised this."""
    if not isinstance(error, Exception):
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is None or place.tb_frame.f_globals.get("__name__", "").startswith("metriplex.")


def _is_in_call() -> bool:
    """Return True if this thread runs a handler."""
    frame = sys._getframe()  # noqa: SLF001 - `inspect` has it under another name
    while frame is not None and frame.f_code.co_qualname != _FINALIZER:
        frame = frame.f_back
    return frame is not None


def _result(frame: CallFrame) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(frame.results.buffers[0].contents.data)


def _make_handler(
    result: Callable[[Any], Any],
    work: Callable[[CallFrame], None],
    struck: Callable[[CallFrame, BaseException], None],
) -> Any:
    """Return a C function for XLA that does `work`, and returns what `result` does.

    `struck` is called with an exception that `work` has not caught.

    If a function that ctypes calls raises, C gets garbage, which XLA takes for the address of an
    error. Ctrl-C, a signal handler of the user's or a lack of memory can raise at any line of
    Python, also at the first one. So `result` is of C, and the work is done by the finalizer of its
    argument, from which no exception gets out.
    """

    @final
    class Argument(ctypes.c_void_p):
        def __del__(self) -> None:
            frame = CallFrame.from_address(self.value or 0)
            try:
                work(frame)
            except BaseException as error:  # noqa: BLE001 - of a signal handler
                struck(frame, error)

    return ctypes.CFUNCTYPE(ctypes.c_void_p, Argument)(result)


_FINALIZER = f"{_make_handler.__qualname__}.<locals>.Argument.__del__"


def push(block: jax.Array, *, own: bool) -> jax.Array:
    """Send a block, uint32 `[...]`, from compiled code on a CPU.

    Returns:
        uint32 `[]`: `TAKEN`, `UNKNOWN` or `STOP`. XLA keeps the call for this result.
    """
    call = jax.ffi.ffi_call(
        OWN if own else COPIED,
        jax.ShapeDtypeStruct((), jnp.uint32),
        has_side_effect=False,
        input_output_aliases={1: 0},
    )
    return call(block, jnp.uint32(UNKNOWN))


def draw(call: int) -> jax.Array:
    """Return the number of an execution on a CPU, int32 `[]`; -1 if Ctrl-C came in between."""
    ask = jax.ffi.ffi_call(
        DRAW,
        jax.ShapeDtypeStruct((), jnp.int32),
        has_side_effect=False,
        input_output_aliases={1: 0},
    )
    return ask(jnp.int32(call), jnp.int32(-1))
