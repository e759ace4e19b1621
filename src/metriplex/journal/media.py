"""Write and read the media files of a journal: clips, frames and pictures.

File names contain the line's number, never a tag, so no path leads out of the run's directory.
Pixels are stored without loss as NumPy's `.npz`, and clips as their encoded bytes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator  # noqa: TC003 - part of public annotations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from metriplex.files import (
    UnsafeFileError,
    check_inside,
    is_regular,
    make_directory,
    open_file,
)
from metriplex.journal.lines import DamagedLineError

MEDIA = "media"
_BLOCK = 2**20
_UNREADABLE = (ValueError, KeyError, OSError, EOFError, MemoryError, NotImplementedError)
FORMATS = frozenset({"gif", "webp", "mp4"})
"""The formats of clips that are file extensions too."""


def store(path: Path, run_dir: Path, data: bytes, *, sync: bool) -> dict[str, Any]:
    """Write a file below `run_dir` and return the reference to it that a line holds.

    A file of the same name, left by a failed call, is overwritten. With `sync`, the file survives a
    power cut.
    """
    make_directory(path.parent, inside=run_dir)
    with open_file(path, "wb", inside=run_dir) as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if sync:
        sync_directory(path.parent)
    return _reference(path, run_dir, len(data), zlib.crc32(data))


def refer(path: Path, run_dir: Path, *, sync: bool) -> list[dict[str, Any]]:
    """Return references to an existing file, or to every file in a directory.

    With `sync`, the files survive a power cut.

    Raises:
        ValueError: `path` is outside of the run's directory.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    references = [_reference(file, run_dir, *_measure(file, run_dir, sync=sync)) for file in files]
    if sync:
        for directory in {file.parent for file in files} | {path.parent}:
            sync_directory(directory)
    return references


def _reference(path: Path, run_dir: Path, size: int, checksum: int) -> dict[str, Any]:
    name = path.relative_to(run_dir).as_posix()
    return {"file": name, "bytes": size, "crc32": f"{checksum:08x}"}


def sync_directory(path: Path) -> None:
    """Sync a directory, if the system can, so that names of new files survive a power cut."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _measure(path: Path, run_dir: Path, *, sync: bool = False) -> tuple[int, int]:
    size = checksum = 0
    with open_file(path, inside=run_dir) as file:
        while block := file.read(_BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
        if sync:
            os.fsync(file.fileno())
    return size, checksum


def inside(name: Any, run_dir: Path) -> Path:
    """Return the path of a file that a line names.

    Raises:
        DamagedLineError: `name` is no path, leads out of the run's directory, or by a symbolic
            link.
    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        raise DamagedLineError(f"{name!r:.80} is no path")
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        raise DamagedLineError(f"`{name:.80}` leads out of the run's directory")
    path = run_dir / plain
    try:
        check_inside(path, run_dir)
    except UnsafeFileError as error:
        raise DamagedLineError(str(error)) from error
    except (OSError, UnicodeEncodeError) as error:
        raise DamagedLineError(f"{name!r:.80} is no path: {error}") from error
    return path


def check(reference: Any, run_dir: Path) -> Path:
    """Return the path of a referenced file after comparing its size and checksum.

    Raises:
        DamagedLineError: The file is missing, changed or unreadable.
    """
    if not isinstance(reference, dict):
        raise DamagedLineError("it names no file")
    path = inside(reference.get("file"), run_dir)
    size, checksum = reference.get("bytes"), reference.get("crc32")
    try:
        if not is_regular(path) or path.stat().st_size != size:
            raise DamagedLineError(f"`{path}` is missing or has another size than was written")
        if f"{_measure(path, run_dir)[1]:08x}" != checksum:
            raise DamagedLineError(f"`{path}` is not as it was written: its checksum is wrong")
    except OSError as error:
        raise DamagedLineError(f"`{path}` can't be read: {error}") from error
    return path


def load(reference: Any, run_dir: Path) -> bytes:
    """Return the bytes of a referenced file, after a `check`."""
    path = check(reference, run_dir)
    try:
        with open_file(path, inside=run_dir) as file:
            return file.read()
    except OSError as error:
        raise DamagedLineError(f"`{path}` can't be read: {error}") from error


def check_directory(path: Path, references: Collection[Path]) -> None:
    """Raise `DamagedLineError` if a directory holds anything but the referenced files.

    A backend stores the whole directory: a link in it would send a file of the user.
    """
    for found in path.rglob("*"):
        if found.is_symlink() or not (found.is_dir() or found in references):
            raise DamagedLineError(f"`{found}` is not one of the files that were logged")


def pack_pixels(pixels: np.ndarray) -> bytes:
    """Return pixels as the bytes of an `.npz` file with the lowest compression level."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("pixels.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array(file, np.asarray(pixels), allow_pickle=False)
    return buffer.getvalue()


def unpack_pixels(data: bytes) -> np.ndarray:
    """Return the pixels that `pack_pixels` got; raise `DamagedLineError` for other data."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return archive["pixels"]
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedLineError(f"its pixels can't be read: {error}") from error


def numbered(run_dir: Path, number: int) -> Iterator[Path]:
    """Yield paths without extensions for the media files of one line, without end."""
    directory = run_dir / "journal" / MEDIA
    return (directory / f"{number:08d}-{index}" for index in itertools.count())
