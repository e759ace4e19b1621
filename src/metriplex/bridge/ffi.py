"""Call the host from compiled code on a CPU by an FFI handler of XLA, made of ctypes alone.

A call takes some ten microseconds, a tenth of what a Python callback of jax takes. XLA's structures
are public and versioned (`xla/ffi/api/c_api.h` under `jax.ffi.include_dir()`); only the versions in
`VERSIONS` are used, as another one may have another layout.
"""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Callable

    Push = Callable[[bytes, tuple[int, ...], int | None, int], None]

VERSIONS = {(0, 3), (0, 5)}
"""Versions of XLA's FFI whose structures are those below."""

COPIED = "metriplex_rows"
"""The target of a program that is one program for all of its devices, which send the same block."""

OWN = "metriplex_rows_of_a_device"
"""The target of code that runs once a device, as in `shard_map`: each device has its own block."""

TAKEN, INTERRUPTED, FAILED = range(3)
"""Results of a call. The buffer holds `INTERRUPTED` before: Ctrl-C on the main thread can end the
handler before its first line, and ctypes drops the exception."""

_METADATA = 1
_FIELDS = re.compile(r"_XLA_FFI_API_STRUCT_FIELD\((XLA_FFI_\w+)\);")


@final
class _Extension(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", ctypes.c_void_p))


@final
class _Version(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    )


@final
class _Metadata(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32))


@final
class _MetadataExtension(ctypes.Structure):
    _fields_ = (("base", _Extension), ("metadata", ctypes.POINTER(_Metadata)))


@final
class _Buffer(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


@final
class _Buffers(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    )


@final
class _CallFrame(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
    )


@final
class _Query(ctypes.Structure):
    """The arguments of a function of the API that returns one integer of the execution."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("value", ctypes.c_int64),
    )


_ASK = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Query))
_API_HEAD = 2 * ctypes.sizeof(ctypes.c_size_t) + ctypes.sizeof(_Version) + 8
"""Bytes of the API's structure before its functions."""


@final
class Handlers:
    """The handlers of both targets, which pass blocks to `push`.

    XLA calls them on its own threads, or on the main thread.

    Args:
        push: Takes the words of a block as bytes, its shape, and the number of the execution and of
            the device if all devices send the same block; None and 0 if each has its own.
        header: The text of the C header of jaxlib.
    """

    def __init__(self, push: Push, header: str) -> None:
        self._push = push
        self._version = _version(header)
        fields = _FIELDS.findall(header)
        self._run_id = _API_HEAD + 8 * fields.index("XLA_FFI_RunId_Get")
        self._ordinal = _API_HEAD + 8 * fields.index("XLA_FFI_DeviceOrdinal_Get")
        self._functions: dict[int, Any] = {}
        self._kept = {
            target: _make_handler(functools.partial(self._handle, copied=target == COPIED))
            for target in (COPIED, OWN)
        }

    def register(self) -> None:
        """Make the targets known to XLA. Raise what jaxlib raises if it refuses them."""
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        for target, handler in self._kept.items():
            capsule = new(ctypes.cast(handler, ctypes.c_void_p), None, None)
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")

    def _handle(self, address: int, *, copied: bool) -> None:
        frame = _CallFrame.from_address(address)
        if frame.extension and frame.extension.contents.type == _METADATA:
            asked = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension)).contents
            version = asked.metadata.contents.version
            version.major, version.minor = self._version
            asked.metadata.contents.traits = 0
            return
        result = _result_of(address)
        try:
            block = frame.arguments.buffers[0].contents
            shape = tuple(block.dims[: block.rank])
            size = 4
            for length in shape:
                size *= length
            words = ctypes.string_at(block.data, size)
            if copied:
                self._push(words, shape, *self._place(frame))
            else:
                self._push(words, shape, None, 0)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - ctypes would only print it
            ctypes.memset(result, FAILED, 1)
        else:
            ctypes.memset(result, TAKEN, 1)

    def _place(self, frame: Any) -> tuple[int, int]:
        """Return the number of the execution and of the device."""
        query = _Query(ctypes.sizeof(_Query), None, frame.context, 0)
        self._function(frame.api, self._run_id)(query)
        execution = query.value
        query.value = 0
        self._function(frame.api, self._ordinal)(query)  # which has 32 bits
        return execution, query.value

    def _function(self, api: int, offset: int) -> Any:
        if offset not in self._functions:
            address = ctypes.c_void_p.from_address(api + offset).value
            if address is None:
                raise RuntimeError("XLA's FFI lacks a function that its header has")
            self._functions[offset] = _ASK(address)
        return self._functions[offset]


def _make_handler(handle: Callable[[int], None]) -> Any:
    """Return a C function for XLA that calls `handle` with the address of the call's frame.

    If a function that ctypes calls raises, C gets garbage as its result, which XLA takes for the
    address of an error. Ctrl-C, a signal handler of the user's or a lack of memory can raise at any
    line, also at the first one. So the function does nothing, and the work is done by the finalizer
    of its argument, from which no exception gets out.
    """

    @final
    class Argument(ctypes.c_void_p):
        def __del__(self) -> None:
            try:
                handle(self.value or 0)
            except KeyboardInterrupt:  # which can also land after the result was written
                ctypes.memset(_result_of(self.value or 0), INTERRUPTED, 1)

    nothing = callable  # False for the argument, which is no error for XLA
    return ctypes.CFUNCTYPE(ctypes.c_void_p, Argument)(nothing)


def _result_of(address: int) -> int:
    return _CallFrame.from_address(address).results.buffers[0].contents.data


def _version(header: str) -> tuple[int, int]:
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR")]
    if None in found:
        raise ValueError("the header of XLA's FFI has no version")
    major, minor = (int(match[1]) for match in found if match is not None)
    return major, minor


def read_header() -> str:
    """Return the C header of jaxlib's FFI. Raise `OSError` if there is none."""
    return Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text()


def explain_unusable(header: str) -> str | None:
    """Return why this header's version can't be used; None if it can."""
    try:
        version = _version(header)
    except ValueError as error:
        return str(error)
    if version not in VERSIONS:
        return f"its version is {version[0]}.{version[1]}, which is none of the known ones"
    missing = {"XLA_FFI_RunId_Get", "XLA_FFI_DeviceOrdinal_Get"} - {*_FIELDS.findall(header)}
    return f"it lacks {', '.join(sorted(missing))}" if missing else None


def push(block: jax.Array, *, own: bool) -> jax.Array:
    """Send a block, uint32 `[...]`, from compiled code on a CPU.

    Returns:
        uint32 `[]`: `TAKEN`, `INTERRUPTED` or `FAILED`. XLA keeps the call for this result.
    """
    call = jax.ffi.ffi_call(
        OWN if own else COPIED,
        jax.ShapeDtypeStruct((), jnp.uint32),
        has_side_effect=False,
        input_output_aliases={1: 0},
    )
    return call(block, jnp.uint32(INTERRUPTED))
