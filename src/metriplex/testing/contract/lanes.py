"""Test how a backend stores the lanes of a vmapped axis."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING

from metriplex.records import Lane, Scalar, Scalars
from metriplex.testing.contract.base import ContractBase, check_names

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

    def test_lanes_have_names(self) -> None:
        """Lanes that are described have the names that `run.lanes` gives them.

        To fix it, name a lane by `run.lane_name(lane)`.
        """
        for lane, (wanted, found) in self._described().items():
            assert found.name == wanted.name, (
                f"lane {lane} must have the name {wanted.name!r}; stored is {found.name!r}"
            )

    def test_lanes_have_hparams(self) -> None:
        """Lanes that are described have the hyper-parameters that `run.lanes` gives them.

        To fix it, store `run.lanes[lane].hparams` with the lane, with or without those of the run.
        """
        for lane, (wanted, found) in self._described().items():
            for name, value in wanted.hparams.items():
                got = found.hparams.get(name)
                assert (type(value), value) == (type(got), got), (
                    f"the hyper-parameter `{name}` of lane {lane} must be {value!r}; stored is "
                    f"{got!r}"
                )

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

    def _described(self) -> dict[int, tuple[Lane, Lane]]:
        """Log lanes that are described, and return what must be stored of each, and what is."""
        lanes = tuple(
            Lane(f"rate {rate:g}", {"rate": rate, "kind": f"v{index}"})
            for index, rate in enumerate((0.5, 0.25, 0.125))
        )
        wanted = {i: one for i, lane in enumerate(lanes) if (one := self.stored_lane(lane))}
        session = self._open("log_scalars", run=self._make_run(lanes=lanes))
        session.hparams({"lr": 0.5})
        for lane in (1, 0, 2):
            session.log(1, {"a": lane / 4}, lane=lane)
        session.close()
        found = self._read(session.run).lanes
        check_names("lanes", wanted, [lane for lane in found if lane in wanted])
        return {lane: (one, found[lane]) for lane, one in wanted.items()}
