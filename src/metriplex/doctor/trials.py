"""Try jax and each plugin in a process of its own, since a plugin may print, hang or crash."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from metriplex.doctor.report import BROKEN, Finding

TRIAL_SECS = 150.0
"""Timeout of one trial in seconds."""


def run_trial(kind: str, name: str, directory: Path, *, limit_secs: float = TRIAL_SECS) -> Finding:
    """Try jax or one plugin in a child process, and return its finding, or how the child ended.

    The child works in `directory`, which is created, and is killed after `limit_secs`.

    Raises:
        OSError: The directory can't be created, or the process can't be started.
    """
    label = f"{kind} {name}".strip()
    directory.mkdir()
    report, output = directory / "report.json", directory / "output.txt"
    with output.open("wb") as printed:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            [sys.executable, "-P", "-m", "metriplex.doctor.child", kind, name, str(report)],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            cwd=directory,
            env=_variables(kind, directory),
            process_group=0,
        )
        try:
            code = process.wait(limit_secs)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # A group's number may be reused once its first process was waited for and the others
            # have ended, so only the group of a process that still runs is killed.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code is None:
        return Finding(BROKEN, label, f"hangs: it was ended after {limit_secs:g} s")
    try:
        status, text, remedy = json.loads(report.read_text())
    except (OSError, ValueError):
        how = str(signal.strsignal(-code) if code < 0 else f"exit status {code}")
        return Finding(BROKEN, label, f"ended its process ({how}){_last_line(output)}")
    return Finding(status, label, text, remedy)


def _variables(kind: str, directory: Path) -> dict[str, str]:
    path = [entry or str(Path.cwd()) for entry in sys.path]
    own = {"PYTHONPATH": os.pathsep.join(path), "TMPDIR": str(directory)}
    if kind != "jax":  # the accelerator may be in use
        own["JAX_PLATFORMS"] = "cpu"
    return os.environ | own


def _last_line(output: Path) -> str:
    lines = output.read_bytes()[-4000:].decode(errors="replace").split("\n")
    printed = [line for line in lines if line.strip()]
    return f": {printed[-1]}" if printed else ""
