"""What becomes of the lanes of a vmapped axis."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING

from metriplex.records import Scalar, Scalars
from metriplex.testing.contract.base import ContractBase

if TYPE_CHECKING:
    from metriplex.testing.stored import Series


class LaneTests(ContractBase, abc.ABC):
    """Every lane is a run of its own."""

    subject = "lanes"

    def test_lanes_are_runs_of_their_own(self) -> None:
        """Records of several lanes, and of none, stay apart, whatever they are called.

        To mend it, keep for each `record.lane` a run, a child run or a directory of its own, named
        by `metriplex.lane_name`, and make it when the lane's first record comes.
        """
        session = self._open()
        self._require(session, "log_scalars")
        lanes = {0: 0.25, 3: 0.5, 1: 0.75, None: 0.125}
        for step in range(5):
            session.scalars(
                *(Scalars(step, {"a": step + own}, lane=lane) for lane, own in lanes.items())
            )
        session.log(9, {"b": 1.0}, lane=200)
        session.close()
        expected: dict[Series, list[tuple[int, Scalar]]] = {
            (lane, "a"): [(step, step + own) for step in range(5)] for lane, own in lanes.items()
        }
        self._check(session.run, {**expected, (200, "b"): [(9, 1.0)]})

    def test_lanes_are_flushed(self) -> None:
        """`flush` makes the records of every lane readable, while the run is still open.

        To mend it, flush what every lane has, not only what the run has.
        """
        session = self._open()
        self._require(session, "log_scalars", "flush")
        for step in range(3):
            for lane in (0, 1):
                session.log(step, {"a": step + lane / 4}, lane=lane)
            session.flush()
            self._check(
                session.run,
                {(lane, "a"): [(s, s + lane / 4) for s in range(step + 1)] for lane in (0, 1)},
            )

    def test_lanes_of_a_resumed_run(self) -> None:
        """A lane is continued when its run is, and superseded like it.

        To mend it, derive what a lane is called from `run.id` and the lane's number.
        """
        run = self._make_run()
        first = self._open(run)
        self._require(first, "log_scalars")
        for step in range(4):
            for lane in (0, 1):
                first.log(step, {"a": step + lane / 4}, lane=lane)
        first.close("interrupted")
        second = self._open(dataclasses.replace(run, resume_step=2))
        for step in range(2, 5):
            for lane in (0, 1):
                second.log(step, {"a": step + lane / 8}, lane=lane)
        second.close()
        kept = 2 if self.supersedes else 4
        self._check(
            run,
            {
                (lane, "a"): [
                    *((step, step + lane / 4) for step in range(kept)),
                    *((step, step + lane / 8) for step in range(2, 5)),
                ]
                for lane in (0, 1)
            },
            ordered=self.supersedes,
        )
