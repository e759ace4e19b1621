"""Checks of the machine: where files go, and ffmpeg."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metriplex.doctor.report import BROKEN, OK, WARNING, Finding
from metriplex.errors import ConfigurationError
from metriplex.naming import create_directory
from metriplex.video.encode.ffmpeg import find_ffmpeg

_RUN = "metriplex_doctor"
_AT_ONCE = 8
_LITTLE_SPACE = 1_000_000_000
_FFMPEG_SECS = 20.0


def check_log_directory(log_dir: str) -> Finding:
    """Whether runs can be made there: written, each in a directory of its own; with what space.

    Args:
        log_dir: Where runs would go. If it doesn't exist, it is made and removed again.
    """
    name = "log directory"
    made: list[Path] = []
    missing = _missing(log_dir)

    def make(_: int) -> None:
        made.append(create_directory(log_dir, _RUN))

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(make, range(_AT_ONCE)))
        free = shutil.disk_usage(made[0]).free
    except (ConfigurationError, OSError) as error:
        return Finding(BROKEN, name, str(error))
    finally:
        for directory in [*made, *missing]:
            with contextlib.suppress(OSError):  # somebody else has put something there
                directory.rmdir()
    if len(set(made)) < _AT_ONCE:
        text = f"{log_dir}: two runs that started at once got the same directory"
        return Finding(BROKEN, name, text, "its file system is not to be trusted; use a local one")
    return _space(name, f"{log_dir}: can be written, runs get directories of their own", free)


def check_temporary_files() -> Finding:
    """Whether there is a directory for temporary files, with space in it."""
    name = "temporary files"
    try:
        directory = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        text = f"can't be written ({error}), so that no clip can be encoded"
        return Finding(BROKEN, name, text, "name a directory that can, by the variable TMPDIR")
    return _space(name, directory, free)


def check_ffmpeg(*, needed: bool) -> Finding:
    """Which ffmpeg encodes, and whether it starts.

    Args:
        needed: Whether a renderer is installed, so that there is something to encode.
    """
    name = "ffmpeg"
    executable = find_ffmpeg()
    if executable is None:
        install = "`pip install imageio-ffmpeg`"
        if importlib.util.find_spec("PIL") is not None:
            return Finding(WARNING, name, "none: no MP4, and GIFs by Pillow only", install)
        text = "none, and no Pillow either: clips can't be encoded"
        install = "`pip install 'metriplex[video]'`"
        return Finding(BROKEN if needed else WARNING, name, text, install)
    command = [executable, "-hide_banner", "-version"]
    try:
        done = subprocess.run(  # noqa: S603 - what will encode, with our own arguments
            command, capture_output=True, timeout=_FFMPEG_SECS, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        chosen = "IMAGEIO_FFMPEG_EXE" in os.environ
        reinstall = "`pip install --force-reinstall imageio-ffmpeg`"
        mend = "unset IMAGEIO_FFMPEG_EXE, or name one that works" if chosen else reinstall
        return Finding(BROKEN, name, f"{executable} can't be run: {error}", mend)
    words = done.stdout.split()
    version = words[2] if words[:2] == ["ffmpeg", "version"] else "of an unknown version"
    return Finding(OK, name, f"{version} ({Path(executable).name})")


def _missing(log_dir: str) -> list[Path]:
    """The directories that `log_dir` needs and that don't exist, the innermost first."""
    try:
        path = Path(log_dir).expanduser().absolute()
        return [folder for folder in [path, *path.parents] if not os.path.lexists(folder)]
    except (OSError, RuntimeError, ValueError):
        return []


def _space(name: str, text: str, free: int) -> Finding:
    text = f"{text}, {free / 1e9:.1f} GB free"
    if free < _LITTLE_SPACE:
        return Finding(WARNING, name, text, "make room: many runs with videos take gigabytes")
    return Finding(OK, name, text)
