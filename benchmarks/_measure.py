"""Helpers of the benchmarks: rounds of contestants, medians, tables, and the machine's name."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, final

from metriplex import RunInfo, Scalars, hookimpl

Contestant: TypeAlias = Callable[[], float]
"""A function that runs once and returns its measurement: seconds, bytes."""


MEBIBYTE = 2**20


@final
class NoOpBackend:
    """A backend that drops records, so that a benchmark measures metriplex's own cost."""

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Sequence[Scalars]) -> None:
        """Do nothing."""


def is_short(description: str | None) -> bool:
    """Parse the command line; return True for a run of a few seconds, for CI."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a few seconds, for CI")
    return parser.parse_args().short


def print_machine(*packages: str) -> None:
    """Print the machine and the versions of packages, and a warning if the machine is busy."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    with contextlib.suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
        noisy = ": noisy, the machine was busy with something else" if load > 0.7 else ""
        print(f"load before the start {load:.1f}{noisy}")
    print()


def resident() -> float:
    """Return the resident memory of this process in MiB; NaN if the system doesn't report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def take_turns(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Run every contestant once a round, in reverse in every second round, after a warm-up round.

    A slow period of the machine therefore affects all contestants, and no contestant always follows
    the same one.
    """
    results: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant()
    for number in range(rounds):
        order = list(contestants)
        for name in order if number % 2 else reversed(order):
            results[name].append(contestants[name]())
    return results


def ratio(results: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Return the median over rounds of the ratio of two contestants' results in one round."""
    pairs = zip(results[name], results[base], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table with aligned columns, numbers to the right."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    first, *others = widths
    lines = [
        [
            row[0].ljust(first),
            *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True)),
        ]
        for row in (titles, *rows)
    ]
    rule = ["-" * first, *("-" * (width - 1) + ":" for width in others)]
    for line in (lines[0], rule, *lines[1:]):
        print("| " + " | ".join(line) + " |")
    print()
