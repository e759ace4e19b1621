"""What the tests of a backend share: facts of its service, runs to log to, what came of them."""

from __future__ import annotations

import abc
import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from metriplex.records import RunInfo, Scalar
from metriplex.testing.session import Session
from metriplex.testing.stored import Series, Stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path


class ContractBase(abc.ABC):
    """What a subclass of `BackendContract` gives, and what its tests are written with.

    Two methods have to be given. The rest are facts of the service, to be given only where they
    differ from what is here; a fact says how the service keeps what it is told, never that it
    loses it: what a service can't do is said by a test that is marked `xfail(reason=...)`.

    Attributes:
        precision: The floating-point type to which the service converts every value, for example
            `np.float32`; None if bools, floats and integers of any size come back as they were.
        max_step: The largest step that the service can store.
        keeps_repeats: Whether all values that one tag has at one step are kept; else the newest is.
        supersedes: Whether a run that is opened again with `resume_step` loses what the service
            holds at this step and beyond; else what is logged again stands beside it.
        timeout: Seconds after which a call counts as one that hangs.
        settle_secs: Seconds after `close_run` in which threads and connections may still end.
        directory: A fresh directory of the test; its runs are in `directory / "logs"`. The service
            may keep its files beside them.
    """

    precision: ClassVar[type[np.floating[Any]] | None] = None
    max_step: ClassVar[int] = 2**63 - 1
    keeps_repeats: ClassVar[bool] = True
    supersedes: ClassVar[bool] = True
    timeout: ClassVar[float] = 60.0
    settle_secs: ClassVar[float] = 10.0
    directory: Path

    # ---- to be given ----------------------------------------------------------------------------

    @abc.abstractmethod
    def make_backend(self) -> object:
        """A new backend, on which no hook has been called yet.

        It is called several times in a test. All that it makes belong to one service, which a run
        can be opened in again. Some tests call it in another process, on a copy of this object: the
        class must be importable there, and what fixtures put into attributes must be picklable.
        """

    @abc.abstractmethod
    def read_back(self, run: RunInfo) -> Stored:
        """What the service has stored of a run, read without the backend's own code.

        Called after `flush` or `close_run`, always in the test's own process. What the service
        adds by itself (system metrics, times) is left out.

        Args:
            run: The run as the backend was given it.
        """

    # ---- facts of the service -------------------------------------------------------------------

    def stored_value(self, value: Scalar) -> Scalar:
        """What the service gives back for a value; by default what `precision` says."""
        if self.precision is None:
            return value
        with np.errstate(over="ignore"):
            return float(self.precision(value))

    def stored_tag(self, tag: str) -> str:
        """What the service calls a tag; different tags must stay different."""
        return tag

    def stored_hparams(self, hparams: Mapping[str, Scalar | str]) -> Mapping[str, Any]:
        """What the service gives back for hyper-parameters."""
        return hparams

    def stored_status(self, status: str) -> str | None:
        """What the service gives back for the status of a run; None if it keeps none."""
        return status

    @classmethod
    def _metriplex_subject(cls, test: str) -> dict[str, str]:
        """What a test is about, and what it demands: for the results of the pytest plugin."""
        owner = next(vars(base) for base in reversed(cls.__mro__) if test in vars(base))
        demand = (owner[test].__doc__ or "").partition("\n")[0]
        return {"subject": owner.get("subject", ""), "demand": demand}

    # ---- for the tests --------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _in_a_directory(self, tmp_path: Path) -> Iterator[None]:
        """Gives the test its directory, and ends what it leaves open."""
        self.directory = tmp_path
        self._sessions: list[Session] = []
        yield
        for session in self._sessions:
            with contextlib.suppress(BaseException):
                session.close("failed")
            session.end()

    def _make_run(self, name: str = "run", resume_step: int | None = None) -> RunInfo:
        directory = self.directory / "logs" / name
        directory.mkdir(parents=True, exist_ok=True)
        return RunInfo(
            id=uuid.uuid4().hex,
            name=name,
            directory=directory,
            start_time=time.time(),
            resume_step=resume_step,
        )

    def _open(self, run: RunInfo | None = None, backend: object = None) -> Session:
        """A run that is open, in a backend of its own unless one is given."""
        plugin = self.make_backend() if backend is None else backend
        session = Session(plugin, run or self._make_run(), self.timeout)
        self._sessions.append(session)
        return session.open()

    def _require(self, session: Session, *hooks: str) -> None:
        """Skips the test of a backend that doesn't implement the hooks."""
        missing = [hook for hook in hooks if hook not in session.backend.hooks]
        if missing:
            pytest.skip(f"the backend doesn't implement `{'`, `'.join(missing)}`")

    def _check(
        self,
        run: RunInfo,
        expected: Mapping[Series, Sequence[tuple[int, Scalar]]],
        *,
        ordered: bool = True,
    ) -> None:
        """Compares the scalars of a run with what was logged: `(step, value)` by lane and tag."""
        found = {series: list(points) for series, points in self._read(run).scalars.items()}
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
    """Whether two values are equal, NaN being equal to itself."""
    return bool(first == second or (first != first and second != second))


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
    """Fails unless the same series, or names, are stored as were logged."""
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
