"""Name runs, check names, and create the directories of runs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

TIME_FORMAT = "%Y%m%d_%H%M%S"
MAX_NAME_BYTES = 200
"""Longest name in UTF-8 bytes; file systems allow 255, and suffixes such as `_2` need room."""

_MAX_PART_BYTES = 80
_LAST_STANDARD_DESCRIPTOR = 2
_PROBE_BYTES = 4096
_MAX_SHOWN = 80
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_UNUSUAL = re.compile(r"[^\w.+=@-]+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_WINDOWS_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL"} | {f"{port}{n}" for port in ("COM", "LPT") for n in range(10)}
)
_FIXES = {
    errno.ENOSPC: "the disk is full: free some space, or give another `log_dir`",
    errno.EDQUOT: "your disk quota is used up: free some space, or give another `log_dir`",
    errno.EFBIG: "files may not grow there (`ulimit -f`): raise the limit",
    errno.ENOTDIR: "a part of the path is a file: remove it, or give another `log_dir`",
    errno.EEXIST: "it is a file: remove it, or give another `log_dir`",
    errno.ENAMETOOLONG: "the path is too long: give a shorter `log_dir` or `name`",
}


def run_name(name: str | None, env: object, policy: object, now: datetime) -> str:
    """Return the name of a run, generated if the user gave none.

    The generated name is `{policy}_{env}_{time}`, `{env}_{time}`, `{policy}_{time}` or
    `training_{time}`, depending on which objects were given. `{env}` and `{policy}` are the
    object's attribute `name` if that is a non-empty string. Otherwise they are the string itself,
    the name of the function or class, or the name of the object's class. Characters that some
    system forbids in file names become `-` (`ALE/Pong-v5` becomes `ALE-Pong-v5`) and long parts are
    cut off, so a generated name is always valid. `now` is the local time. Raises
    `ConfigurationError` if the user's name can't be the name of a directory on every system.
    """
    if name is not None:
        check_name(name)
        return name
    parts = [_part(thing) for thing in (policy, env) if thing is not None] or ["training"]
    return "_".join([*parts, now.strftime(TIME_FORMAT)])


def check_name(name: object) -> None:
    """Check that a name is one plain path component on Linux, macOS and Windows.

    Raises `ConfigurationError` if it is no string or empty, holds a path separator, a control
    character or one of `<>:"|?*`, starts with a dot, starts or ends with a space, ends with a dot,
    is longer than 200 bytes, or is reserved on Windows.
    """
    if not isinstance(name, str):
        raise ConfigurationError(
            f"`name` must be a string or None, got {name!r} of type `{type(name).__name__}`"
        )
    why = _problem(name)
    if why is not None:
        usable = _usable(name)
        fix = f"; `{usable}` would do" if 0 < len(usable) <= _MAX_SHOWN else ""
        shown = f"{name[:_MAX_SHOWN]!r}..." if len(name) > _MAX_SHOWN else repr(name)
        raise ConfigurationError(
            f"`name` is the name of a directory under `log_dir`, but {shown} {why}{fix} "
            "(other folders belong in `log_dir`)"
        )


def create_directory(log_dir: str | os.PathLike[str], name: str) -> Path:
    """Create a new, writable directory for a run under `log_dir`; return its absolute path.

    Two callers never get the same directory. The creation is atomic, so this also holds for two
    processes that start in the same second: the second one gets `{name}_2`, the third one
    `{name}_3`, and so on. `log_dir` is created if missing; `~` is the home directory. Raises
    `ConfigurationError` if the name is invalid, or the directory can't be created or written.
    """
    check_name(name)
    parent = local_directory(log_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = _make_unique(parent, name)
    except OSError as error:
        raise _unusable(parent, error) from error
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise _unusable(parent, error) from error
    return directory


def _make_unique(parent: Path, name: str) -> Path:
    for directory in _candidates(parent, name):
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            return directory
    raise AssertionError  # pragma: no cover - the candidates don't end


def missing_directories(directory: Path) -> list[Path]:
    """Return the directories that `mkdir(parents=True)` would create, the inmost first."""
    return [path for path in (directory, *directory.parents) if not path.exists()]


def reserve_standard_descriptors() -> None:
    """Open the null device as each of the descriptors 0, 1 and 2 that is closed.

    A file that gets such a descriptor would take what any library prints.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_DESCRIPTOR:
            os.set_inheritable(descriptor, True)  # a child process has them too
        os.close(descriptor)


def free_directory(log_dir: Path, name: str) -> Path:
    """Return the directory that `create_directory` would create, without creating it."""
    return next(path for path in _candidates(log_dir, name) if not path.exists())


def _candidates(parent: Path, name: str) -> Iterator[Path]:
    return (parent / (name if n == 1 else f"{name}_{n}") for n in count(1))


def local_directory(log_dir: str | os.PathLike[str]) -> Path:
    """Return `log_dir` as an absolute path, so that a later `os.chdir` doesn't move the run."""
    try:
        text = os.fspath(log_dir)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(
            f"`log_dir` must be a non-empty path (string or `pathlib.Path`), got {log_dir!r}"
        )
    if _URL.match(text):
        raise ConfigurationError(
            f"`log_dir` must be a local directory, got {text!r}: mount it, or copy the run later"
        )
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigurationError(
            f"`log_dir` {text!r} has no home directory to start from: give a full path"
        ) from error


def _unusable(parent: Path, error: OSError) -> ConfigurationError:
    fix = _FIXES.get(error.errno or 0, "give a `log_dir` that you may write to")
    return ConfigurationError(
        f"can't create a run's directory in `log_dir` {str(parent)!r} "
        f"({type(error).__name__}: {error.strerror or error}): {fix}"
    )


def _problem(name: str) -> str | None:
    """Return the problem with a name as the end of a sentence, or None if the name is valid."""
    forbidden = _FORBIDDEN.search(name)
    if not name.strip():
        return "is empty"
    if forbidden:
        return f"contains {forbidden.group()!r}"
    if name.startswith("."):
        return "starts with a dot"
    if name != name.strip() or name.endswith("."):
        return "starts or ends with a space, or ends with a dot"
    if _is_device(name):
        return "is reserved on Windows"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if size > MAX_NAME_BYTES:
        return f"is {size} bytes long (at most {MAX_NAME_BYTES})"
    return None


def _is_device(name: str) -> bool:
    return name.split(".")[0].rstrip().upper() in _WINDOWS_DEVICES


def _usable(text: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return a text as a valid name; empty if no character remains."""
    plain = _UNUSUAL.sub("-", text).lstrip(".-")
    plain = plain.encode()[:max_bytes].decode(errors="ignore").rstrip(".-")
    return f"{plain.replace('.', '-')}-" if _is_device(plain) else plain


def _part(thing: object) -> str:
    try:
        name = thing if isinstance(thing, str) else getattr(thing, "name", None)
    except Exception:  # noqa: BLE001 - a property of a foreign class may raise anything
        name = None
    candidates = (name, getattr(thing, "__name__", None), type(thing).__name__)
    usable = (_usable(c, _MAX_PART_BYTES) for c in candidates if isinstance(c, str))
    return next(filter(None, usable), "unnamed")
