"""Check the machine: the directories for files, and ffmpeg."""

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
    """Check that runs can be created in a directory, each in its own, and the free space.

    A directory that is missing is created, and removed again.
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
            with contextlib.suppress(OSError):  # another process has put a file there
                directory.rmdir()
    if len(set(made)) < _AT_ONCE:
        text = f"{log_dir}: two runs that started at once got the same directory"
        return Finding(BROKEN, name, text, "its file system is not to be trusted; use a local one")
    return _space(name, f"{log_dir}: can be written, runs get directories of their own", free)


def check_temporary_files() -> Finding:
    """Check that temporary files can be written, and the free space."""
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
    """Check that an ffmpeg is installed and starts; report its version.

    `needed` is True if a renderer is installed, whose clips need an encoder.
    """
    name = "ffmpeg"
    executable = find_ffmpeg()
    if executable is None:
        install = "`pip install imageio-ffmpeg`"
        if importlib.util.find_spec("imageio") is not None:
            return Finding(WARNING, name, "none: no MP4, and GIFs by imageio only", install)
        text = "none, and no imageio either: clips can't be encoded"
        install = "`pip install 'metriplex[video]'`"
        return Finding(BROKEN if needed else WARNING, name, text, install)
    command = [executable, "-hide_banner", "-version"]
    try:
        done = subprocess.run(  # noqa: S603 - the encoder, with our own arguments
            command, capture_output=True, timeout=_FFMPEG_SECS, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        chosen = "IMAGEIO_FFMPEG_EXE" in os.environ
        reinstall = "`pip install --force-reinstall imageio-ffmpeg`"
        remedy = "unset IMAGEIO_FFMPEG_EXE, or name one that works" if chosen else reinstall
        return Finding(BROKEN, name, f"{executable} can't be run: {error}", remedy)
    words = done.stdout.split()
    version = words[2] if words[:2] == ["ffmpeg", "version"] else "of an unknown version"
    return Finding(OK, name, f"{version} ({Path(executable).name})")


def _missing(log_dir: str) -> list[Path]:
    """Return `log_dir` and its parents that don't exist, innermost first."""
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
