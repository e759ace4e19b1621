"""Shared by the processes that die here: a run without jax, and a service in a file."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, final

CORE = Path(__file__).parents[3] / "src" / "metriplex"

ENVIRONMENT = {**os.environ, "HOST_ONLY": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
"""Of processes that do without jax, which takes a second to import."""

if "HOST_ONLY" in os.environ:
    package = types.ModuleType("metriplex")
    package.__path__ = [str(CORE)]
    sys.modules["metriplex"] = package

from metriplex.delivery.run_journal import RunJournal  # noqa: E402
from metriplex.plugins.backends import Backend  # noqa: E402
from metriplex.plugins.hookspecs import hookimpl  # noqa: E402
from metriplex.records import RunInfo, Scalars  # noqa: E402
from metriplex.run.run import Run  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
class Service:
    """A service that keeps steps in a file, and can tell what it has.

    What a call brings is stored by `flush`; a step that it knows it doesn't store again.
    """

    def __init__(self, path: Path, flush_secs: float = 0.002) -> None:
        self.path = path
        self.flush_secs = flush_secs
        self._pending: list[int] = []
        self._known: set[int] = set()

    @hookimpl
    def open_run(self) -> None:
        self._known = set(self.stored())

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self._pending += [record.step for record in records]

    @hookimpl
    def flush(self) -> None:
        fresh = [step for step in self._pending if step not in self._known]
        with self.path.open("ab", buffering=0) as file:
            file.write(b"".join(b"%09d\n" % step for step in fresh))
        self._known.update(fresh)
        self._pending = []

    def stored(self) -> list[int]:
        """The steps that it has; a write that a kill cut short is completed by the next."""
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = len(data) // 10 * 10
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        return [int(line) for line in data[:whole].split()]


def make_run(directory: Path, *plugins: object, queue_size: int = 65_536, **journal: object) -> Run:
    """An open run with backends `first`, `second`, ..."""
    directory.mkdir(exist_ok=True)
    info = RunInfo("0f", "run", directory, 0.0)
    kept = RunJournal(info, **journal)  # ty: ignore[invalid-argument-type] - of a test's own
    names = ("first", "second")
    backends = [Backend(name, plugin) for name, plugin in zip(names, plugins, strict=False)]
    return Run(info, backends, queue_size=queue_size, journal=kept)
