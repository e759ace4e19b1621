"""A backend in processes of its own: that end well, that end without closing, that are killed."""

from __future__ import annotations

import abc

import pytest

from metriplex.plugins.backends import Backend
from metriplex.testing.child import Child
from metriplex.testing.contract.base import ContractBase

_SECONDS = 120.0


class ProcessTests(ContractBase, abc.ABC):
    """The backend in a fresh process, made there by a copy of the test object."""

    subject = "processes"

    def test_a_fresh_process_uses_it_and_ends(self) -> None:
        """A process that imports the backend, logs and closes prints nothing and ends by itself.

        It is started like a spawned one: nothing is inherited. Nothing goes to the standard
        output, and environment variables, signal handlers, hooks, streams and the root logger stay
        as they were. To mend it, switch a library's greeting off, log instead of printing, restore
        what it sets, and end its threads and processes in `close_run`.
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
        """A process that ends without `close_run` ends, and keeps what was flushed.

        To mend it, let no thread or `atexit` handler wait for ever, and ask nobody anything.
        """
        run = self._make_run("other process")
        with Child(self, run, "leave") as child:
            child.wait(_SECONDS)
        if self._hooks() >= {"flush", "log_scalars"}:
            self._check(run, child.logged)

    def test_what_is_flushed_survives_a_sigkill(self) -> None:
        """After `flush` a SIGKILL of the process loses nothing of what was logged before.

        To mend it, hand everything to the system, or to the server, before `flush` returns; to
        hand it to a thread or to another process is not enough.
        """
        if not self._hooks() >= {"flush", "log_scalars"}:
            pytest.skip("the backend doesn't implement `flush` and `log_scalars`")
        run = self._make_run("other process")
        with Child(self, run, "wait") as child:
            child.kill_when_flushed(_SECONDS)
        self._check(run, child.logged)

    def _hooks(self) -> frozenset[str]:
        return Backend("contract", self.make_backend()).hooks
