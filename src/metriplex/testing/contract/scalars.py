"""Test how a backend stores scalars: values, steps and order."""

from __future__ import annotations

import abc
import math
import pickle
import time
from typing import TYPE_CHECKING, Any

from metriplex.records import Scalar, Scalars
from metriplex.testing.contract.base import ContractBase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex.testing.stored import Series

_FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 0.1, -2.5, math.pi, 1 / 3, 1e-6, 123456.789, 1e30, -1e30),
    *(3.4028234663852886e38, 1.1754943508222875e-38),  # the ends of float32
    *(1.7976931348623157e308, 2.2250738585072014e-308),  # the ends of float64
    *(1e-40, 1.401298464324817e-45, 1e-310, 5e-324),  # denormals of both
)
_INTEGERS = (0, 1, -1, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1)
_EPOCH = 1.7e9
_STEPS = (0, 1, 2**31 - 1, 2**31, 2**32 + 1, 5_000_000_000, 2**53 + 1, 2**63 - 1)


class ScalarTests(ContractBase, abc.ABC):
    """Tests of scalars: every value is stored once, at its step."""

    subject = "scalars"

    def test_floats_are_exact(self) -> None:
        """Floats are stored exactly, at the precision that `precision` documents.

        That includes the largest, the smallest and the denormal ones. To fix it, pass numbers to
        the service instead of text; if you must write text, use `repr`.
        """
        self._check_values(_FLOATS)

    def test_integers_are_exact(self) -> None:
        """Integers are stored exactly, also beyond 2**53, where float64 is inexact.

        To fix it, don't convert to float; if the service does, set `precision`.
        """
        self._check_values(_INTEGERS)

    def test_bools_are_kept(self) -> None:
        """True and False are stored, at least as 1 and 0.

        To fix it, treat bools as numbers; don't convert them to text, and don't skip False.
        """
        self._check_values((True, False, True))

    def test_nan_and_infinities_are_kept(self) -> None:
        """NaN and infinities are stored, since users may choose to log them.

        To fix it, use the encoding of the service; strict JSON can't represent these values.
        """
        self._check_values((0.5, math.nan, math.inf, -math.inf, 0.25))

    def test_wall_times_are_kept(self) -> None:
        """The time of every record is stored, in the form of `stored_wall_time`.

        Records wait, and are sent again: the time at which a service gets them is not theirs. To
        fix it, pass `record.wall_time` to the service.
        """
        session = self._open("log_scalars")
        times = [_EPOCH + 3600.0 * i + 0.25 for i in range(8)]
        for step, wall_time in enumerate(times):
            session.scalars(Scalars(step, {"a": step / 4}, wall_time=wall_time))
        session.close()
        wanted = [(step, self.stored_wall_time(one)) for step, one in enumerate(times)]
        self._check_points("times", wanted, self._read(session.run).wall_times)

    def test_iterations_are_kept(self) -> None:
        """The training iteration of every record is stored, in the form of `stored_iteration`.

        To fix it, store `record.iteration` beside the step, where the service has a place for it.
        """
        session = self._open("log_scalars")
        for index in range(8):
            values = {"a": index / 4}
            session.scalars(Scalars(64 * index, values, 3 * index, wall_time=time.time()))
        session.close()
        wanted = [(64 * index, self.stored_iteration(3 * index)) for index in range(8)]
        self._check_points("iterations", wanted, self._read(session.run).iterations)

    def test_order_is_kept(self) -> None:
        """A thousand records, in calls of several records, are stored in order, each once.

        To fix it, send records in the order of the calls, and don't sample or limit them.
        """
        session = self._open("log_scalars")
        records = [Scalars(10 * i, {"a": i / 8, "b": i}, iteration=i) for i in range(1000)]
        start = 0
        for size in (1, 2, 0, 500, 7, 490):
            if size:
                session.scalars(*records[start : start + size])
            start += size
        session.close()
        self._check(
            session.run,
            {
                (None, "a"): [(10 * i, i / 8) for i in range(1000)],
                (None, "b"): [(10 * i, i) for i in range(1000)],
            },
        )

    def test_steps_are_exact(self) -> None:
        """Steps are exact from 0 to `max_step`, also beyond 2**31.

        To fix it, don't store steps as float or as a 32-bit integer.
        """
        session = self._open("log_scalars")
        steps = sorted({min(step, self.max_step) for step in _STEPS})
        for index, step in enumerate(steps):
            session.log(step, {"a": index / 4})
        session.close()
        self._check(session.run, {(None, "a"): [(s, i / 4) for i, s in enumerate(steps)]})

    def test_steps_may_go_back(self) -> None:
        """Records with a lower step than earlier records are stored: evaluations, second programs.

        To fix it, keep the service from dropping late steps: give each group of tags a step axis of
        its own, or send the step as a value.
        """
        session = self._open("log_scalars")
        train = [(100 * (i + 1), i / 2) for i in range(10)]
        evaluation = [(50, 1.0), (1050, 2.0), (950, 3.0), (2, 4.0)]
        for step, value in train:
            session.log(step, {"train/loss": value})
        for step, value in evaluation:
            session.log(step, {"eval/return": value})
        session.log(1, {"train/loss": 9.0})
        session.close()
        self._check(
            session.run,
            {(None, "train/loss"): [*train, (1, 9.0)], (None, "eval/return"): evaluation},
            ordered=False,
        )

    def test_one_step_in_several_records(self) -> None:
        """All records of one step are stored; values of one tag as `keeps_repeats` documents.

        To fix it, don't treat a second record at a step as a duplicate.
        """
        session = self._open("log_scalars")
        session.log(7, {"a": 1.0})
        session.log(7, {"b": 2.0})
        now = time.time()
        session.scalars(
            Scalars(7, {"a": 3.0}, wall_time=now), Scalars(8, {"b": 4.0}, wall_time=now)
        )
        session.close()
        both = [(7, 1.0), (7, 3.0)] if self.keeps_repeats else [(7, 3.0)]
        self._check(session.run, {(None, "a"): both, (None, "b"): [(7, 2.0), (8, 4.0)]})

    def test_tags_come_late_and_vanish(self) -> None:
        """Every record may have other tags: tags appear and vanish at any time.

        To fix it, don't derive fixed columns from the first record, and don't fill in values.
        """
        session = self._open("log_scalars")
        expected: dict[Series, list[tuple[int, Scalar]]] = {}
        for step in range(30):
            values = {f"tag_{i}": step + i / 8 for i in range(step // 3, step // 2 + 1)}
            for tag, value in values.items():
                expected.setdefault((None, tag), []).append((step, value))
            session.log(step, values)
        session.close()
        self._check(session.run, expected)

    def test_what_a_hook_is_given_stays_as_it_was(self) -> None:
        """A hook doesn't change its arguments: other backends and retries get the same objects.

        To fix it, copy an argument before you change it.
        """
        session = self._open("log_scalars")
        record = Scalars(3, {"a": 0.5, "b": 2}, 1, None, time.time())
        hparams = {"lr": 0.1, "env": "CartPole"}
        before = pickle.dumps(record)
        session.hparams(hparams)
        session.scalars(record)
        session.close()
        assert pickle.dumps(record) == before, f"a record was changed to {record}"
        assert hparams == {"lr": 0.1, "env": "CartPole"}, f"hparams were changed to {hparams}"

    def _check_points(
        self, what: str, wanted: Sequence[tuple[int, float | None]], found: Mapping[Series, Any]
    ) -> None:
        expected = [point for point in wanted if point[1] is not None]
        got = list(found.get((None, self.stored_tag("a")), ()))
        assert got == expected, (
            f"the {what} of the records must be {expected}, as (step, ...); `read_back` gives {got}"
        )

    def _check_values(self, values: tuple[Scalar, ...]) -> None:
        session = self._open("log_scalars")
        for step, value in enumerate(values):
            session.log(step, {"a": value})
        session.close()
        self._check(session.run, {(None, "a"): list(enumerate(values))})
