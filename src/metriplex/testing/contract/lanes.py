"""Test how a backend stores the lanes of a vmapped axis."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING

from metriplex.records import Scalar, Scalars
from metriplex.testing.contract.base import ContractBase

if TYPE_CHECKING:
    from metriplex.testing.stored import Series


class LaneTests(ContractBase, abc.ABC):
    """Tests of lanes, each of which is a run of its own."""

    subject = "lanes"

    def test_lanes_are_runs_of_their_own(self) -> None:
        """Records of different lanes, and records without a lane, are stored apart.

        To fix it, keep a run, a child run or a directory for each `record.lane`, named by
        `metriplex.lane_name`, and create it at the first record of the lane.
        """
        session = self._open("log_scalars")
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
        """After `flush` the records of every lane can be read while the run is open.

        To fix it, flush the records of every lane, not only those of the run.
        """
        session = self._open("log_scalars", "flush")
        for step in range(3):
            for lane in (0, 1):
                session.log(step, {"a": step + lane / 4}, lane=lane)
            session.flush()
            self._check(
                session.run,
                {(lane, "a"): [(s, s + lane / 4) for s in range(step + 1)] for lane in (0, 1)},
            )

    def test_lanes_of_a_resumed_run(self) -> None:
        """The lanes of a resumed run are continued, and their records superseded like the run's.

        To fix it, derive the identity of a lane from `run.id` and the lane's number.
        """
        run = self._make_run()
        first = self._open("log_scalars", run=run)
        for step in range(4):
            for lane in (0, 1):
                first.log(step, {"a": step + lane / 4}, lane=lane)
        first.close("interrupted")
        second = self._open(run=dataclasses.replace(run, resume_step=2))
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
