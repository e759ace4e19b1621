"""Base class of the contract of backends: facts of the service, runs, and checks of values."""

from __future__ import annotations

import abc
import contextlib
import math
import time
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from metriplex.records import Lane, RunInfo, Scalar
from metriplex.testing.session import Session
from metriplex.testing.stored import Series, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path


class ContractBase(abc.ABC):
    """The methods and facts that a subclass of `BackendContract` defines, and helpers of its tests.

    A subclass must implement `make_backend` and `read_back`. All other members are facts of the
    service: override them where they differ from the defaults. A fact describes how the service
    stores records, and never excuses a loss: for that, mark a test with `xfail(reason=...)`.

    Attributes:
        precision: Floating-point type to which the service converts every value, for example
            `np.float32`; None if bools, floats and integers of any size are stored exactly.
        max_step: Largest step that the service can store.
        keeps_repeats: True if the service keeps all values of one tag at one step; False if it
            keeps the newest only.
        supersedes: True if opening a run again with `resume_step` deletes the stored records from
            this step on; False if the service keeps them beside the new records.
        stores_once: True if the backend recognises records that a process had stored before it
            died, so that they are stored once when they are sent again; False if they may be
            stored twice.
        timeout: Seconds after which a call counts as hanging.
        settle_secs: Seconds after `close_run` within which threads and connections must end.
        directory: A fresh directory for the test; its runs are in `directory / "logs"`. The service
            may store files in it.
    """

    precision: ClassVar[type[np.floating[Any]] | None] = None
    max_step: ClassVar[int] = 2**63 - 1
    keeps_repeats: ClassVar[bool] = True
    supersedes: ClassVar[bool] = True
    stores_once: ClassVar[bool] = False
    timeout: ClassVar[float] = 60.0
    settle_secs: ClassVar[float] = 10.0
    directory: Path

    # ---- to implement ---------------------------------------------------------------------------

    @abc.abstractmethod
    def make_backend(self) -> object:
        """Return a new backend, whose hooks have not been called.

        A test calls it several times. All its backends use one service, so that each can open a run
        that another one has logged. Some tests call it in another process, on a copy of this
        object: the class must be importable there, and its attributes must be picklable.
        """

    @abc.abstractmethod
    def read_back(self, run: RunInfo) -> Stored:
        """Return the stored records of a run, read without the code of the backend.

        It is called after `flush` or `close_run`, always in the process of the test. Leave out
        values that the service adds (system metrics, times).

        Args:
            run: The run, as the backend got it.
        """

    # ---- facts of the service -------------------------------------------------------------------

    def stored_value(self, value: Scalar) -> Scalar:
        """Return the stored form of a value; by default, the value converted to `precision`."""
        if self.precision is None:
            return value
        with np.errstate(over="ignore"):
            return float(self.precision(value))

    def stored_tag(self, tag: str) -> str:
        """Return the stored form of a tag; different tags must have different forms."""
        return tag

    def stored_hparams(self, hparams: Mapping[str, Scalar | str]) -> Mapping[str, Any]:
        """Return the stored form of hyper-parameters."""
        return hparams

    def stored_lane(self, lane: Lane) -> Lane | None:
        """Return the stored form of a lane's name and hyper-parameters; None if none is stored.

        By default, the name itself, and `stored_hparams`.
        """
        return Lane(lane.name, self.stored_hparams(lane.hparams))

    def stored_wall_time(self, wall_time: float) -> float | None:
        """Return the stored form of a record's time; None if the service stores none."""
        return wall_time

    def stored_iteration(self, iteration: int) -> int | None:
        """Return the stored form of a record's iteration; None if the service stores none."""
        return iteration

    def stored_status(self, status: str) -> str | None:
        """Return the stored form of a run's status; None if the service stores none."""
        return status

    @classmethod
    def _metriplex_subject(cls, test: str) -> dict[str, str]:
        """Return the subject and the demand of a test, for the results of the pytest plugin."""
        owner = next(vars(base) for base in reversed(cls.__mro__) if test in vars(base))
        demand = (owner[test].__doc__ or "").partition("\n")[0]
        return {"subject": owner.get("subject", ""), "demand": demand}

    # ---- for the tests --------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _in_a_directory(self, tmp_path: Path) -> Iterator[None]:
        """Set the directory of the test, and close its sessions at the end."""
        self.directory = tmp_path
        self._sessions: list[Session] = []
        yield
        for session in self._sessions:
            with contextlib.suppress(BaseException):
                session.close("failed")
            session.end()

    def _make_run(
        self,
        name: str = "run",
        resume_step: int | None = None,
        *,
        logs: str = "logs",
        lanes: tuple[Lane, ...] = (),
    ) -> RunInfo:
        directory = self.directory / logs / name
        directory.mkdir(parents=True, exist_ok=True)
        return RunInfo(
            id=uuid.uuid4().hex,
            name=name,
            directory=directory,
            start_time=time.time(),
            resume_step=resume_step,
            lanes=lanes,
        )

    def _open(self, *hooks: str, run: RunInfo | None = None, backend: object = None) -> Session:
        """Open a run, in a new backend by default; skip the test if the backend lacks a hook."""
        plugin = self.make_backend() if backend is None else backend
        session = Session(plugin, run or self._make_run(), self.timeout)
        self._sessions.append(session)
        session.open()
        missing = [hook for hook in hooks if hook not in session.backend.hooks]
        if missing:
            pytest.skip(f"the backend doesn't implement `{'`, `'.join(missing)}`")
        return session

    def _check(
        self,
        run: RunInfo,
        expected: Mapping[Series, Sequence[tuple[int, Scalar]]],
        *,
        ordered: bool = True,
    ) -> None:
        """Check that the stored scalars are the logged ones: `(step, value)` by lane and tag."""
        self._compare(self._read(run), expected, ordered=ordered)

    def _compare(
        self,
        stored: Stored,
        expected: Mapping[Series, Sequence[tuple[int, Scalar]]],
        *,
        ordered: bool = True,
    ) -> None:
        found = {series: list(points) for series, points in stored.scalars.items()}
        wanted = {
            (lane, self.stored_tag(tag)): [(step, self.stored_value(value)) for step, value in rows]
            for (lane, tag), rows in expected.items()
        }
        check_names("(lane, tag)", wanted, found)
        for series, points in wanted.items():
            if ordered:
                _compare(series, points, found[series])
            else:
                _compare(series, sorted(points), sorted(found[series]))

    def _read(self, run: RunInfo) -> Stored:
        stored = self.read_back(run)
        assert isinstance(stored, Stored), f"`read_back` must give a `Stored`; got {stored!r}"
        return stored


def same(first: Scalar, second: Scalar) -> bool:
    """Return True if two values are equal, where NaN equals NaN and 0.0 differs from -0.0."""
    if first == second == 0:
        return math.copysign(1.0, first) == math.copysign(1.0, second)
    return bool(first == second or (first != first and second != second))


def raises(call: Callable[[], object]) -> bool:
    """Return True if a call raises any exception."""
    try:
        call()
    except Exception:  # noqa: BLE001 - any exception passes
        return True
    return False


def _compare(
    series: Series, wanted: Sequence[tuple[int, Scalar]], found: Sequence[tuple[int, Scalar]]
) -> None:
    lane, tag = series
    where = f"`{tag}`" if lane is None else f"`{tag}` of lane {lane}"
    for index, ((step, value), (got_step, got)) in enumerate(zip(wanted, found, strict=False)):
        assert (step, True) == (got_step, same(value, got)), (
            f"value {index} of {where} must be {value!r} at step {step}; stored is {got!r} at step "
            f"{got_step}"
        )
    assert len(wanted) == len(found), (
        f"{where} must have {len(wanted)} value(s); stored are {len(found)}, the last of them "
        f"{found[-1] if found else None}"
    )


def check_names(what: str, wanted: Iterable[Any], found: Iterable[Any]) -> None:
    """Fail unless the stored series or names are the logged ones."""
    missing, surplus = set(wanted) - set(found), set(found) - set(wanted)
    assert not missing, (
        f"these were logged and are not stored, {what}: {_few(missing)}; stored besides are: "
        f"{_few(surplus)}"
    )
    assert not surplus, f"these are stored and were not logged in this run, {what}: {_few(surplus)}"


def _few(series: Any) -> str:
    listed = sorted(repr(one) for one in series)
    return (
        ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
        or "none"
    )
