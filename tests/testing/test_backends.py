"""The contract of backends, passed by a backend that keeps everything in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metriplex.testing import BackendContract, MemoryBackend, Stored

if TYPE_CHECKING:
    from metriplex import RunInfo


class TestMemory(BackendContract):
    def make_backend(self) -> object:
        self.runs: dict[str, Stored] = getattr(self, "runs", {})
        return MemoryBackend(self.runs)

    def read_back(self, run: RunInfo) -> Stored:
        return self.runs[run.id]
