"""Define the C structures of XLA's FFI for ctypes, for the versions whose layout is known.

The structures are public and versioned (`xla/ffi/api/c_api.h` under `jax.ffi.include_dir()`).
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any, final

import jax

VERSIONS = {(0, 3), (0, 5)}
"""Versions of XLA's FFI whose structures are those below. Another one may have another layout."""

METADATA = 1
"""The type of the extension by which XLA asks a handler for its version."""

CANCELLED = 1
"""The code of an error for a program that is stopped on request."""

_FIELDS = re.compile(r"_XLA_FFI_API_STRUCT_FIELD\((XLA_FFI_\w+)\);")


@final
class Extension(ctypes.Structure):
    """The head of an extension of a call's frame."""

    _fields_ = (("size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", ctypes.c_void_p))


@final
class Version(ctypes.Structure):
    """The version of the structures."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    )


@final
class Metadata(ctypes.Structure):
    """The answer of a handler that is asked for its version."""

    _fields_ = (("size", ctypes.c_size_t), ("version", Version), ("traits", ctypes.c_uint32))


@final
class MetadataExtension(ctypes.Structure):
    """The extension by which XLA asks a handler for its version."""

    _fields_ = (("base", Extension), ("metadata", ctypes.POINTER(Metadata)))


@final
class Buffer(ctypes.Structure):
    """One array in the memory of a device."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


@final
class Buffers(ctypes.Structure):
    """The operands or the results of a call."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(ctypes.POINTER(Buffer))),
    )


@final
class CallFrame(ctypes.Structure):
    """One call of a handler."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(Extension)),
        ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("operands", Buffers),
        ("results", Buffers),
    )


@final
class Query(ctypes.Structure):
    """The arguments of a function of the API that returns one integer of the execution."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("value", ctypes.c_int64),
    )


@final
class Error(ctypes.Structure):
    """The arguments of the function of the API that makes an error."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    )


_HEAD = 2 * ctypes.sizeof(ctypes.c_size_t) + ctypes.sizeof(Version) + 8
"""Bytes of the API's structure before its functions."""

_QUERY = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Query))
# With the interpreter's lock, as the message can be replaced.
_MAKE_ERROR = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Error))
_FUNCTIONS: dict[str, Any] = {
    "XLA_FFI_Error_Create": _MAKE_ERROR,
    "XLA_FFI_RunId_Get": _QUERY,
    "XLA_FFI_DeviceOrdinal_Get": _QUERY,
}
"""The functions of the API that handlers call."""


@final
class Api:
    """The version and the functions of XLA's FFI, as its header says them.

    Args:
        header: The text of the C header of jaxlib.
    """

    def __init__(self, header: str) -> None:
        self.version = version_of(header)
        fields = _FIELDS.findall(header)
        self._offsets = {name: _HEAD + 8 * fields.index(name) for name in _FUNCTIONS}
        self._found: dict[str, Any] = {}

    def function(self, name: str, api: int) -> Any:
        """Return a function of the API at an address. Raise `RuntimeError` if it is absent."""
        if name not in self._found:
            address = ctypes.c_void_p.from_address(api + self._offsets[name]).value
            if address is None:
                raise RuntimeError(f"XLA's FFI lacks `{name}`, which its header has")
            self._found[name] = _FUNCTIONS[name](address)
        return self._found[name]

    def answer(self, frame: CallFrame) -> bool:
        """Return True if XLA asks for the handler's version, which is then answered."""
        if not frame.extension or frame.extension.contents.type != METADATA:
            return False
        asked = ctypes.cast(frame.extension, ctypes.POINTER(MetadataExtension)).contents
        metadata = asked.metadata.contents
        metadata.version.major, metadata.version.minor = self.version
        metadata.traits = 0
        return True


def read_header() -> str:
    """Return the C header of jaxlib's FFI. Raise `OSError` if there is none."""
    return Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text()


def version_of(header: str) -> tuple[int, int]:
    """Return the version that a header defines. Raise `ValueError` if it defines none."""
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR")]
    if None in found:
        raise ValueError("the header of XLA's FFI has no version")
    major, minor = (int(match[1]) for match in found if match is not None)
    return major, minor


def explain_unusable(header: str) -> str | None:
    """Return why this header's version can't be used; None if it can."""
    try:
        version = version_of(header)
    except ValueError as error:
        return str(error)
    if version not in VERSIONS:
        return f"its version is {version[0]}.{version[1]}, which is none of the known ones"
    missing = {*_FUNCTIONS} - {*_FIELDS.findall(header)}
    return f"it lacks {', '.join(sorted(missing))}" if missing else None
