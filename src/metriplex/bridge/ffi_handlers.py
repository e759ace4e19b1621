"""Register the FFI handlers of this process, once, at the first program that is traced."""

from __future__ import annotations

import functools
import logging
from typing import Literal, TypeAlias

import jax

from metriplex.bridge import ffi, receiver, xla_api
from metriplex.bridge.numbers import number_of
from metriplex.bridge.stop import MESSAGES

logger = logging.getLogger("metriplex")

Transport: TypeAlias = Literal["auto", "ffi", "callback"]
"""The kind of the calls; `"auto"` is the FFI where it can serve, else a callback."""

TARGETS = (ffi.COPIED, ffi.OWN, ffi.DRAW, *MESSAGES)
"""The targets of the calls in compiled programs."""

_kept: list[ffi.Handlers] = []
"""XLA calls them until the process ends."""


@functools.cache
def explain_unusable() -> str | None:
    """Return why programs on a CPU can't call the host by the FFI; None if they can. Any thread."""
    try:
        header = xla_api.read_header()
        reason = xla_api.explain_unusable(header)
        if reason is None:
            handlers = ffi.Handlers(receiver.push, number_of, header, MESSAGES)
            handlers.register()
            _kept.append(handlers)
    except Exception as error:  # noqa: BLE001 - of any kind of jaxlib; the callback serves as well
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        logger.debug("programs call the host by jax's callbacks, not by the FFI: %s", reason)
    return reason


def serves(transport: Transport) -> bool:
    """Return True if the calls of a program on a CPU are to be those of the FFI.

    Each device of a program calls its handler. Of several processes only the one with the program's
    first device is to get the row, which a callback of jax sees to.
    """
    if transport == "callback" or jax.distributed.is_initialized():
        return False
    return explain_unusable() is None
