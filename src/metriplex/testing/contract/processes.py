"""Test a backend in other processes, which close the run, end without closing, or are killed."""

from __future__ import annotations

import abc

import pytest

from metriplex.plugins.backends import Backend
from metriplex.testing.child import Child
from metriplex.testing.contract.base import ContractBase

_SECONDS = 120.0


class ProcessTests(ContractBase, abc.ABC):
    """Tests of the backend in a fresh process, created there by a copy of the test object."""

    subject = "processes"

    def test_a_fresh_process_uses_it_and_ends(self) -> None:
        """A fresh process that logs and closes the run prints nothing, and ends by itself.

        The process is spawned, and inherits nothing. It writes nothing to the standard output, and
        doesn't change environment variables, signal handlers, hooks, streams or the root logger. To
        fix it, disable greetings of libraries, log instead of printing, restore what a library
        changes, and end threads and processes in `close_run`.
        """
        run = self._make_run("other process")
        with Child(self, run, "close") as child:
            child.wait(_SECONDS)
        assert not child.printed, f"the standard output was given {child.printed!r}"
        changed = ", ".join(child.changed)
        assert not changed, f"logging changed, of the process: {changed}"
        if self._hooks() >= {"flush", "log_scalars"}:
            self._check(run, child.logged)

    def test_a_process_may_end_without_closing(self) -> None:
        """A process without `close_run` ends by itself, and its flushed records are stored.

        To fix it, let no thread or `atexit` handler wait forever, and never prompt the user.
        """
        run = self._make_run("other process")
        with Child(self, run, "leave") as child:
            child.wait(_SECONDS)
        if self._hooks() >= {"flush", "log_scalars"}:
            self._check(run, child.logged)

    def test_what_is_flushed_survives_a_sigkill(self) -> None:
        """Records that were logged before `flush` survive a SIGKILL of the process.

        To fix it, pass all records to the operating system or the server before `flush` returns; a
        thread or another process of the backend is not enough.
        """
        if not self._hooks() >= {"flush", "log_scalars"}:
            pytest.skip("the backend doesn't implement `flush` and `log_scalars`")
        run = self._make_run("other process")
        with Child(self, run, "wait") as child:
            child.kill_when_flushed(_SECONDS)
        self._check(run, child.logged)

    def _hooks(self) -> frozenset[str]:
        return Backend("contract", self.make_backend()).hooks
