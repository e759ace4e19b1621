"""The life of a run: opening, flushing, closing, going on, several at once."""

from __future__ import annotations

import abc
import dataclasses
import threading
from typing import TYPE_CHECKING

import pytest

from metriplex.records import Scalar, Text
from metriplex.testing.contract.base import ContractBase
from metriplex.testing.process import Resources, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.testing.session import Session
    from metriplex.testing.stored import Series

_RUNS = 6


class LifeTests(ContractBase, abc.ABC):
    """Runs that begin, go on, end, and have others beside them."""

    subject = "life"

    def test_a_run_without_records(self) -> None:
        """A run that ends before anything is logged is closed without an error, and is empty.

        To mend it, make nothing in `close_run` depend on a first record.
        """
        session = self._open()
        session.flush()
        session.close("failed")
        self._check(session.run, {})

    @pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
    def test_how_a_run_ended(self, status: str) -> None:
        """The service knows how a run ended, as far as it keeps that; see `stored_status`.

        To mend it, translate `status` of `close_run` to what the service calls it.
        """
        session = self._open()
        session.hparams({"lr": 0.5})
        session.log(1, {"a": 1.0})
        session.close(status)
        found = self._read(session.run).status
        wanted = self.stored_status(status)
        assert found == wanted, f"the status must be {wanted!r}; stored is {found!r}"

    def test_close_may_be_called_twice(self) -> None:
        """The second `close_run` does nothing, also with another status.

        To mend it, forget a run when it is closed, and let `close_run` of an unknown run pass.
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
        """After `close_run` every hook that logs raises, and what is stored stays as it was.

        To mend it, remember that the run is closed, and raise `metriplex.ClosedError`.
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
                assert _raises(call), f"`{hook}` raised nothing after `close_run`"
        after = dict(self._read(session.run).scalars)
        assert before == after, f"after `close_run` the run was changed from {before} to {after}"

    def test_what_is_flushed_can_be_read(self) -> None:
        """After `flush` everything that was logged can be read, while the run is still open.

        To mend it, wait in `flush` until the service has what you sent.
        """
        session = self._open()
        self._require(session, "flush", "log_scalars")
        expected: list[tuple[int, Scalar]] = []
        for step in range(3):
            session.log(step, {"a": step / 4})
            expected.append((step, step / 4))
            session.flush()
            session.flush()
            self._check(session.run, {(None, "a"): expected})

    def test_two_runs_at_once(self) -> None:
        """One backend object serves two runs from two threads, and keeps them apart.

        To mend it, keep what belongs to a run by `run.id`, and share nothing without a lock.
        """
        backend = self.make_backend()
        sessions = [self._open(self._make_run(name), backend) for name in ("first", "second")]
        self._log_at_once(sessions)
        sessions[0].close()
        sessions[1].log(5000, {"a": 9.5})
        sessions[1].close()
        self._check(sessions[0].run, _logged(0))
        rows = _logged(1)
        rows[None, "a"].append((5000, 9.5))
        self._check(sessions[1].run, rows)

    def test_two_backends_at_once(self) -> None:
        """Two backends of the kind live beside each other; closing one leaves the other alone.

        To mend it, keep no state in modules or classes, nor in a library's one global run.
        """
        sessions = [self._open(self._make_run(name)) for name in ("first", "second")]
        self._log_at_once(sessions)
        sessions[1].close()
        sessions[0].log(5000, {"a": 9.5})
        sessions[0].close()
        self._check(sessions[1].run, _logged(1))
        rows = _logged(0)
        rows[None, "a"].append((5000, 9.5))
        self._check(sessions[0].run, rows)

    def test_two_runs_of_one_name(self) -> None:
        """Runs of one name, in two log directories, are two runs.

        To mend it, tell runs apart by `run.id`; the name is for people.
        """
        runs = [self._make_run("same"), self._make_run("same")]
        other = runs[1].directory.parent.parent / "other logs" / "same"
        other.mkdir(parents=True)
        runs[1] = dataclasses.replace(runs[1], directory=other)
        for index, run in enumerate(runs):
            session = self._open(run)
            session.log(1, {"a": float(index)})
            session.close()
        for index, run in enumerate(runs):
            self._check(run, {(None, "a"): [(1, float(index))]})

    def test_a_resumed_run_has_each_step_once(self) -> None:
        """What is logged again from `resume_step` on supersedes what was there: no step twice.

        To mend it, have the service drop what it holds at this step and beyond; if it can't, set
        `supersedes = False`, and what is logged again stands beside it.
        """
        self._log_twice(resume_step=6)

    def test_a_run_that_is_opened_again_goes_on(self) -> None:
        """A run whose `id` the service has is continued, by another backend object: a replay.

        To mend it, look the run up by `run.id` in `open_run`, and append to it.
        """
        self._log_twice(resume_step=None)

    def test_nothing_is_left_behind(self) -> None:
        """Runs that were closed leave no thread, open file, socket or process behind.

        To mend it, release in `close_run` what the run has; share what is costly among runs.
        """
        for index in range(2):
            self._live(f"warm up {index}")
        before = Resources.of_this_process()
        for index in range(_RUNS):
            self._live(f"run {index}")
        grown = settle(before, self.settle_secs)
        assert not grown, f"{_RUNS} runs that were closed have left behind: {grown}"

    def test_no_test_of_the_contract_is_overridden(self) -> None:
        """A subclass runs every test as it is, unless it says that it fails, and why.

        To mend it, remove the test from your class, or mark it with
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

    def _live(self, name: str) -> None:
        session = self._open(self._make_run(name))
        session.hparams({"lr": 0.5})
        session.log(1, {"a": 1.0})
        session.log(1, {"a": 1.0}, lane=3)
        session.flush()
        session.close()
        session.end()
        self._sessions.remove(session)

    def _log_twice(self, resume_step: int | None) -> None:
        run = self._make_run()
        first = self._open(run)
        self._require(first, "log_scalars")
        for step in range(10):
            first.log(step, {"a": step / 4})
        first.close("interrupted")
        second = self._open(dataclasses.replace(run, resume_step=resume_step))
        start = 10 if resume_step is None else resume_step
        for step in range(start, 13):
            second.log(step, {"a": step * 4.0})
        second.close()
        kept = start if self.supersedes else 10
        expected: list[tuple[int, Scalar]] = [(step, step / 4) for step in range(kept)]
        expected += [(step, step * 4.0) for step in range(start, 13)]
        self._check(run, {(None, "a"): expected}, ordered=self.supersedes)

    def _log_at_once(self, sessions: list[Session]) -> None:
        """Logs to both from threads that run at the same time."""
        barrier, errors = threading.Barrier(len(sessions)), list[BaseException]()

        def log(index: int) -> None:
            try:
                barrier.wait(self.timeout)
                logged = _logged(index)
                for row in zip(*logged.values(), strict=True):
                    values = {tag: row[i][1] for i, (_, tag) in enumerate(logged)}
                    sessions[index].log(row[0][0], values)
                sessions[index].flush()
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                errors.append(error)

        threads = [threading.Thread(target=log, args=(index,)) for index in range(len(sessions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def _logged(index: int) -> dict[Series, list[tuple[int, Scalar]]]:
    """What the run of a number logs, of which no other run logs anything."""
    first = 1000 * index
    return {
        (None, "a"): [(first + step, first + step / 4) for step in range(20)],
        (None, f"own_{index}"): [(first + step, first - step / 4) for step in range(20)],
    }


def _raises(call: Callable[[], None]) -> bool:
    try:
        call()
    except Exception:  # noqa: BLE001 - whatever it raises will do
        return True
    return False


def _contract_tests(cls: type) -> set[str]:
    ours = [base for base in cls.__mro__ if base.__module__.startswith("metriplex.testing.")]
    return {name for base in ours for name in vars(base) if name.startswith("test_")}
