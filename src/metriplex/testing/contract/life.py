"""Test how a backend opens, flushes, closes and resumes runs, also several runs at once."""

from __future__ import annotations

import abc
import dataclasses
import gc
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from metriplex.records import Scalar, Scalars, Text
from metriplex.testing.contract.base import ContractBase, raises
from metriplex.testing.process import resources, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.testing.session import Session
    from metriplex.testing.stored import Series

_RUNS = 6
_BATCHES, _RECORDS, _TAGS = 10, 50, 20
_BYTES = 8
"""A value that is kept takes as much memory, or more: the size of a float64."""


class LifeTests(ContractBase, abc.ABC):
    """Tests of the life cycle of runs."""

    subject = "life"

    def test_a_run_without_records(self) -> None:
        """A run without records is closed without an error, and is empty.

        To fix it, don't let `close_run` depend on a first record.
        """
        session = self._open()
        session.flush()
        session.close("failed")
        self._check(session.run, {})

    @pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
    def test_how_a_run_ended(self, status: str) -> None:
        """The status of a closed run is stored, in the form of `stored_status`.

        To fix it, translate the argument `status` of `close_run` to the terms of the service.
        """
        session = self._open()
        session.hparams({"lr": 0.5})
        session.log(1, {"a": 1.0})
        session.close(status)
        found = self._read(session.run).status
        wanted = self.stored_status(status)
        assert found == wanted, f"the status must be {wanted!r}; stored is {found!r}"

    def test_close_may_be_called_twice(self) -> None:
        """A second `close_run` does nothing, also with another status.

        To fix it, forget a run at its close, and ignore `close_run` of an unknown run.
        """
        session = self._open()
        session.log(1, {"a": 1.0})
        session.close("finished")
        before = self._read(session.run)
        session.close("failed")
        after = self._read(session.run)
        same = (before.scalars, before.status) == (after.scalars, after.status)
        assert same, f"the second `close_run` changed what is stored: from {before} to {after}"

    def test_a_closed_run_takes_nothing(self) -> None:
        """After `close_run` every logging hook raises, and the stored records don't change.

        To fix it, remember that the run is closed, and raise `metriplex.ClosedError`.
        """
        session = self._open()
        session.log(1, {"a": 1.0})
        session.close()
        before = dict(self._read(session.run).scalars)
        calls: dict[str, Callable[[], None]] = {
            "log_scalars": lambda: session.log(2, {"a": 2.0}),
            "log_hparams": lambda: session.hparams({"lr": 1.0}),
            "log_text": lambda: session.media(Text(2, "a", "late")),
        }
        for hook, call in calls.items():
            if hook in session.backend.hooks:
                assert raises(call), f"`{hook}` raised nothing after `close_run`"
        after = dict(self._read(session.run).scalars)
        assert before == after, f"after `close_run` the run was changed from {before} to {after}"

    def test_what_is_flushed_can_be_read(self) -> None:
        """After `flush` all logged records can be read while the run is open.

        To fix it, wait in `flush` until the service has stored all sent records.
        """
        session = self._open("flush", "log_scalars")
        expected: list[tuple[int, Scalar]] = []
        for step in range(3):
            session.log(step, {"a": step / 4})
            expected.append((step, step / 4))
            session.flush()
            session.flush()
            self._check(session.run, {(None, "a"): expected})

    def test_two_runs_at_once(self) -> None:
        """One backend object logs two runs from two threads, and keeps them apart.

        To fix it, store the state of each run under `run.id`, and lock all shared state.
        """
        backend = self.make_backend()
        runs = self._make_run("first"), self._make_run("second")
        self._log_at_once([self._open(run=run, backend=backend) for run in runs])

    def test_two_backends_at_once(self) -> None:
        """Two backend objects work at once; closing the run of one doesn't affect the other.

        To fix it, keep no state in modules or classes, or in a global run of a library.
        """
        runs = self._make_run("second"), self._make_run("first")
        self._log_at_once([self._open(run=run) for run in runs])

    def test_two_runs_of_one_name(self) -> None:
        """Two runs with one name, in two log directories, are stored as two runs.

        One backend object logs both at once, and others go on with them one after the other. To fix
        it, identify runs by `run.id`, also in memory; names need not be unique.
        """
        backend = self.make_backend()
        runs = [self._make_run("same"), self._make_run("same", logs="other logs")]
        sessions = [self._open(run=run, backend=backend) for run in runs]
        for step in (1, 2):
            for index, session in enumerate(sessions):
                session.log(step, {"a": step + index / 4})
        for session in sessions:
            session.close()
        for index, run in enumerate(runs):
            session = self._open(run=run)
            session.log(3, {"a": 3 + index / 4})
            session.close()
        for index, run in enumerate(runs):
            self._check(run, {(None, "a"): [(step, step + index / 4) for step in (1, 2, 3)]})

    def test_a_resumed_run_has_each_step_once(self) -> None:
        """Records from `resume_step` on replace the stored ones: no step is stored twice.

        To fix it, delete the stored records from this step on; if the service can't do that, set
        `supersedes = False`, which allows old and new records side by side.
        """
        self._log_twice(resume_step=6)

    def test_a_run_that_is_opened_again_goes_on(self) -> None:
        """A run with a known `id` is continued by another backend object, such as a replay's.

        To fix it, look up the run by `run.id` in `open_run`, and append to it.
        """
        self._log_twice(resume_step=None)

    def test_nothing_is_left_behind(self) -> None:
        """Closed runs leave no thread, open file, socket or process behind.

        The backend objects are still referenced, as a program may refer to its own. To fix it,
        release all resources of the run in `close_run`; runs may share costly ones.
        """
        held = [self._live(f"warm up {index}") for index in range(2)]
        before = resources()
        held += [self._live(f"run {index}") for index in range(_RUNS)]
        grown = settle(before, self.settle_secs)
        del held
        assert not grown, f"{_RUNS} runs that were closed have left behind: {grown}"

    def test_memory_is_bounded(self) -> None:
        """A backend keeps nothing in memory of the values that it has flushed.

        To fix it, forget records once they are stored, and don't collect them for the end.
        """
        session = self._open("log_scalars", "flush")
        tags = [f"tag_{index}" for index in range(_TAGS)]
        sizes: list[int] = []
        tracemalloc.start()
        try:
            for batch in range(_BATCHES):
                first = batch * _RECORDS
                session.scalars(
                    *(
                        Scalars(step, {tag: step + i / 64 for i, tag in enumerate(tags)})
                        for step in range(first, first + _RECORDS)
                    )
                )
                session.flush()
                if batch + 1 in (_BATCHES // 2, _BATCHES):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        session.close()
        values = _BATCHES // 2 * _RECORDS * _TAGS
        grown = sizes[1] - sizes[0]
        assert grown < values * _BYTES, (
            f"{grown} bytes were kept of {values} values that were flushed"
        )

    def test_no_test_of_the_contract_is_overridden(self) -> None:
        """A subclass overrides no test, except with `xfail` and a reason.

        To fix it, remove the test from your class, or mark it with
        `pytest.mark.xfail(reason="...")`.
        """
        marks = pytest.mark.xfail(reason="").name
        for cls in type(self).__mro__:
            if cls.__module__.startswith("metriplex.testing."):
                continue
            for name in vars(cls).keys() & _contract_tests(type(self)):
                found = getattr(vars(cls)[name], "pytestmark", [])
                reasons = [mark.kwargs.get("reason") for mark in found if mark.name == marks]
                others = [mark.name for mark in found if mark.name in ("skip", "skipif")]
                excused = any(reasons) and not others
                assert excused, (
                    f"`{cls.__name__}.{name}` overrides a test of the contract, and is not marked "
                    f"`pytest.mark.xfail(reason=...)`"
                )

    # ---- helpers --------------------------------------------------------------------------------

    def _live(self, name: str) -> object:
        """Log and close a run of its own backend object, and return the object."""
        session = self._open(run=self._make_run(name))
        session.hparams({"lr": 0.5})
        session.log(1, {"a": 1.0})
        session.log(1, {"a": 1.0}, lane=3)
        session.flush()
        session.close()
        session.end()
        self._sessions.remove(session)
        return session.backend

    def _log_twice(self, resume_step: int | None) -> None:
        run = self._make_run()
        first = self._open("log_scalars", run=run)
        for step in range(10):
            first.log(step, {"a": step / 4})
        first.close("interrupted")
        second = self._open(run=dataclasses.replace(run, resume_step=resume_step))
        start = 10 if resume_step is None else resume_step
        for step in range(start, 13):
            second.log(step, {"a": step * 4.0})
        second.close()
        kept = start if self.supersedes else 10
        expected: list[tuple[int, Scalar]] = [(step, step / 4) for step in range(kept)]
        expected += [(step, step * 4.0) for step in range(start, 13)]
        self._check(run, {(None, "a"): expected}, ordered=self.supersedes)

    def _log_at_once(self, sessions: list[Session]) -> None:
        """Log to two sessions from two threads, close the first one, and log to the second one."""
        barrier = threading.Barrier(2)

        def log(index: int) -> None:
            barrier.wait(self.timeout)
            logged = _logged(index)
            for row in zip(*logged.values(), strict=True):
                values = {tag: row[i][1] for i, (_, tag) in enumerate(logged)}
                sessions[index].log(row[0][0], values)
            sessions[index].flush()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(log, (0, 1)))
        first, second = sessions
        first.close()
        second.log(5000, {"a": 9.5})
        second.close()
        self._check(first.run, _logged(0))
        rows = _logged(1)
        rows[None, "a"].append((5000, 9.5))
        self._check(second.run, rows)


def _logged(index: int) -> dict[Series, list[tuple[int, Scalar]]]:
    """Return the scalars of run number `index`, which no other run logs."""
    first = 1000 * index
    return {
        (None, "a"): [(first + step, first + step / 4) for step in range(20)],
        (None, f"own_{index}"): [(first + step, first - step / 4) for step in range(20)],
    }


def _contract_tests(cls: type) -> set[str]:
    ours = [base for base in cls.__mro__ if base.__module__.startswith("metriplex.testing.")]
    return {name for base in ours for name in vars(base) if name.startswith("test_")}
