"""Test a backend on a machine that runs out of disk space or of file descriptors."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import pytest

from metriplex.delivery import calls
from metriplex.records import Scalars
from metriplex.testing.contract.base import ContractBase
from metriplex.testing.process import first_free_descriptor, limited

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from metriplex.delivery.calls import Call
    from metriplex.records import Scalar
    from metriplex.testing.session import Session
    from metriplex.testing.stored import Series

    _Fault: TypeAlias = Callable[[], AbstractContextManager[None]]

_ROOM = (0, 1, 40, 150, 400, 1000, 2500)
"""Bytes that files may still grow by, so that writes end within and between records."""

_RECORDS = 10


class FaultTests(ContractBase, abc.ABC):
    """Tests of calls that fail in the operating system, and are made again."""

    subject = "faults"

    def test_a_failed_call_stores_all_or_nothing(self) -> None:
        """A call that fails stores all of its records or none, and is made again.

        The disk is full in the midst of a write, at different places, or the process can open no
        more files and sockets. Then there is room, the same call is made again, and every record is
        stored once. An error may not be ignored, and must be an `OSError`. To fix it, write all
        records of a call at once, at the same offset at every try, and forget them only when they
        are stored; raise other errors that may pass as `metriplex.TransientError`.
        """
        faults: list[_Fault | None] = [None]
        faults += [
            lambda room=room: limited("RLIMIT_FSIZE", self._largest() + room) for room in _ROOM
        ]
        faults += [lambda: limited("RLIMIT_NOFILE", first_free_descriptor())]
        session = self._open("log_scalars")
        expected: dict[Series, list[tuple[int, Scalar]]] = {(None, "a"): [], (None, "b"): []}
        for number, fault in enumerate(faults):
            steps = range(number * _RECORDS, (number + 1) * _RECORDS)
            records = tuple(Scalars(s, {"a": s / 8, "b": -s / 8}, wall_time=1.7e9) for s in steps)
            for (_, tag), points in expected.items():
                points += [(record.step, record.values[tag]) for record in records]
            for call in (calls.log_scalars(0, records), calls.flush(0)):
                self._try(session, call, fault)
        self._try(session, calls.close_run(0, "finished"), faults[1])
        self._check(session.run, expected)

    def _try(self, session: Session, call: Call, fault: _Fault | None) -> None:
        """Make a call under a fault, and again without it if it failed."""
        if fault is not None:
            try:
                with fault():
                    failure = session.attempt(call)
            except Exception as error:  # noqa: BLE001 - any exception but an `OSError`
                pytest.fail(
                    f"`{call.hook}` raised {type(error).__name__} ({error}), which is not made "
                    f"again: raise `metriplex.TransientError` for what may pass"
                )
            if failure is None:
                return
        session.call(call)

    def _largest(self) -> int:
        """Return the size of the largest file of the test, in bytes."""
        paths = (path for path in self.directory.rglob("*") if path.is_file())
        return max((path.stat().st_size for path in paths), default=0)
