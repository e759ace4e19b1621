"""Check the machine and the installed plugins before a training: `metriplex doctor`."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from metriplex.doctor import machine
from metriplex.doctor.report import BROKEN, OK, Finding, layout, summary
from metriplex.doctor.trials import run_trial
from metriplex.plugins.discovery import GROUPS, entry_points, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["run"]


def run(
    log_dir: str,
    *,
    width: int,
    emit: Callable[[str], object],
    backends: Sequence[str] | None = None,
) -> int:
    """Run every check, and emit the lines of each finding as soon as it is known; leave no files.

    `backends` are the names of the backends to try; None for all. Return the exit status: 1 if a
    finding is `broken`, else 0. Raise `PluginError` if a backend in `backends` is not installed.
    """
    plugins = [(kind, name) for kind in GROUPS for name in _names(kind, backends)]
    names = ["temporary files", *(f"{kind} {name}" for kind, name in plugins)]
    findings = []
    for finding in _findings(log_dir, plugins):
        findings.append(finding)
        for line in layout(finding, max(map(len, names)), width):
            emit(line)
    for line in summary(findings, width):
        emit(line)
    return int(any(finding.status == BROKEN for finding in findings))


def _names(kind: str, backends: Sequence[str] | None) -> list[str]:
    """Return the sorted names of the plugins of a kind that are to be tried."""
    if kind == "backend" and backends is not None:
        return sorted({find(kind, name).name for name in backends})
    return sorted({entry.name for entry in entry_points(kind)})


def _findings(log_dir: str, plugins: list[tuple[str, str]]) -> Iterator[Finding]:
    system = f"{platform.system()} {platform.machine()}"
    yield Finding(OK, "Python", f"{platform.python_version()} on {system}")
    yield machine.check_log_directory(log_dir)
    yield machine.check_temporary_files()
    draws = any(kind == "renderer" for kind, _ in plugins)
    yield machine.check_ffmpeg(needed=draws)
    try:
        with tempfile.TemporaryDirectory(
            prefix="metriplex-doctor-", ignore_cleanup_errors=True
        ) as directory:
            for number, (kind, name) in enumerate([("jax", ""), *plugins]):
                yield run_trial(kind, name, Path(directory, str(number)))
    except OSError:  # the finding on temporary files explains the error
        for kind, name in [("jax", ""), *plugins]:
            text = "not tried, for want of a directory for temporary files"
            yield Finding(BROKEN, f"{kind} {name}".strip(), text)
