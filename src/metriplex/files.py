"""Open files in directories that somebody else may have written, such as a run from elsewhere.

Only regular files are opened: a pipe would block its reader, and a device may be endless. Below a
run's directory no symbolic link is followed, since it may lead to any file of the user.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import IO, Any, Literal, TypeAlias, final

Mode: TypeAlias = Literal["rb", "r+b", "wb"]

_FLAGS = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}
_ALWAYS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@final
class UnsafeFileError(OSError):
    """A path is a symbolic link where none is followed, or no regular file."""


def open_file(path: Path, mode: Mode = "rb", *, inside: Path | None, **options: Any) -> IO[bytes]:
    """Open a regular file, without waiting for it.

    Args:
        path: The file.
        mode: As for `open`.
        inside: A directory above `path`; no symbolic link below it is followed. None follows all.
        options: Further arguments of `open`.

    Raises:
        UnsafeFileError: The path is no regular file, or has a symbolic link below `inside`.
        OSError: The file can't be opened.
    """
    return os.fdopen(open_descriptor(path, _FLAGS[mode], inside=inside), mode, **options)


def open_descriptor(path: Path, flags: int, *, inside: Path | None) -> int:
    """Open a regular file as `open_file` does, with flags of `os.open`; return its descriptor."""
    if inside is not None:
        check_inside(path, inside)
        flags |= _NO_LINK
    descriptor = os.open(path, flags | _ALWAYS, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise UnsafeFileError(f"`{path}` is no regular file: remove it")


def check_inside(path: Path, directory: Path) -> None:
    """Raise `UnsafeFileError` if `path` has a symbolic link below a directory above it."""
    part = directory
    for name in path.relative_to(directory).parts:
        part /= name
        if part.is_symlink():
            raise UnsafeFileError(
                f"`{part}` is a symbolic link, which may lead to any file: replace it by what it "
                f"stands for, or remove it"
            )


def make_directory(path: Path, *, inside: Path) -> None:
    """Create a directory unless it exists, with its parents, without following a symbolic link.

    Raises:
        UnsafeFileError: The path has a symbolic link below the directory `inside`.
        OSError: The directory can't be created.
    """
    check_inside(path, inside)
    path.mkdir(parents=True, exist_ok=True)


def is_regular(path: Path) -> bool:
    """Return True for a regular file that is no symbolic link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
