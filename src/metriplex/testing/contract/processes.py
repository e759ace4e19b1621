"""Test a backend in other processes, which close the run, end without closing, or are killed."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import pytest

from metriplex.plugins.backends import Backend
from metriplex.testing.child import Child, Life
from metriplex.testing.contract.base import ContractBase

if TYPE_CHECKING:
    from metriplex.testing.stored import Stored

_SECONDS = 120.0
_ENDING_SECONDS = 3.0


@final
@dataclass(frozen=True)
class _Used:
    """A process that used the backend, and what its run has stored."""

    life: Life
    child: Child
    stored: Stored | AssertionError


_used: dict[type, _Used] = {}
"""The process that the tests of a class share."""


class ProcessTests(ContractBase, abc.ABC):
    """Tests of the backend in a fresh process, created there by a copy of the test object."""

    subject = "processes"

    def test_a_fresh_process_uses_it_and_ends(self) -> None:
        """A fresh process that logs and closes the run stores everything, and ends by itself.

        The process is spawned, and inherits nothing. To fix it, end threads and processes in
        `close_run`.
        """
        used = self._use()
        used.life.check(_SECONDS)
        if self._hooks() >= {"flush", "log_scalars"}:
            if isinstance(used.stored, AssertionError):
                raise used.stored
            self._compare(used.stored, used.child.logged)

    def test_a_fresh_process_prints_nothing(self) -> None:
        """A process that uses the backend prints nothing, on neither stream, and warns of nothing.

        To fix it, disable greetings of libraries, log instead of printing, and mend the causes of
        warnings.
        """
        life = self._use().life
        assert not life.stdout, f"the standard output was given {life.stdout!r}"
        if life.status == 0:
            assert not life.stderr, f"the standard error was given {life.stderr!r}"

    def test_a_fresh_process_keeps_its_state(self) -> None:
        """No call changes the global state of the process, not even until the run is closed.

        That is the working directory, environment variables, signal handlers, hooks, streams, the
        root logger, the state of random numbers, NumPy's handling of errors and more. To fix it,
        restore what a library changes at its import, pass settings as arguments, use generators of
        your own, and leave to a process of your own what needs another state.
        """
        changed = ", ".join(self._use().life.changed)
        assert not changed, f"logging changed, of the process: {changed}"

    def test_a_fresh_process_imports_no_jax(self) -> None:
        """The backend works without jax, which a process that replays a run doesn't load.

        To fix it, use the records as they are, which hold NumPy arrays and Python values. The
        module of the contract must not import jax either.
        """
        importer = self._use().life.importer
        assert importer is None, f"jax was imported, by {importer}"

    def test_a_fresh_process_ends_at_once(self) -> None:
        """After `close_run` a process has nothing left to do, and ends at once.

        To fix it, finish in `close_run` instead of in a handler of `atexit` or a thread that the
        interpreter waits for.
        """
        seconds = self._use().life.ending_secs or 0.0
        assert seconds < _ENDING_SECONDS, (
            f"after `close_run` the process went on for {seconds:.1f} s, in its threads and its "
            f"handlers of `atexit`"
        )

    def test_a_process_may_end_without_closing(self) -> None:
        """A process without `close_run` ends by itself, and its flushed records are stored.

        To fix it, let no thread or `atexit` handler wait forever, and never prompt the user.
        """
        run = self._make_run("other process")
        with Child(self, run, "leave") as child:
            child.wait(_SECONDS).check(_SECONDS)
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

    def _use(self) -> _Used:
        """Return the process that has used the backend; it runs once for all tests of the class."""
        if type(self) not in _used:
            run = self._make_run("other process")
            with Child(self, run, "close") as child:
                life = child.wait(_SECONDS)
            stored: Stored | AssertionError
            try:
                stored = self._read(run)
            except Exception as error:  # noqa: BLE001 - raised by the test that compares
                stored = AssertionError(f"`read_back` failed: {type(error).__name__}: {error}")
            _used[type(self)] = _Used(life, child, stored)
        return _used[type(self)]
