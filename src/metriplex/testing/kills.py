"""Kill processes that log to a backend at random moments, then replay or resume their runs."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from metriplex.journal import read_entries, read_run
from metriplex.records import Scalars
from metriplex.testing.copies import Copy, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from metriplex.records import RunInfo, Scalar
    from metriplex.testing.contract.base import ContractBase
    from metriplex.testing.stored import Series, Stored

    Points: TypeAlias = list[tuple[int, Scalar]]

WAYS = ("replayed", "resumed", "resumed at an earlier step")
"""List the ways in which killed runs go on; kills take them in turn."""

_SIZES = (1, 10, 100)
"""Tags of a record: with many, a backend's own buffers are full long before it is flushed."""

_VALUES = 16_000
"""Most values before a kill."""

_SEED = 7
_NEW_STEPS = 5
_EVERY = 20
"""Records between two signs of life."""

_LATER = 0.05
"""Longest time from a sign of life to the kill, in seconds."""


@final
@dataclass(frozen=True)
class Moment:
    """Hold what must be stored of one killed run.

    Attributes:
        run: The run.
        way: What followed the kill.
        steps: How many steps were logged and journaled, from 0 on; a value is its step.
        tags: The tags.
    """

    run: RunInfo
    way: str
    steps: int
    tags: Sequence[str]

    def expect(self, stored: Stored) -> Mapping[Series, Points]:
        """Return the points of every tag.

        A backend may have stored, before the kill, more than the journal had: a replay leaves that.
        """
        expected: dict[Series, Points] = {}
        for tag in self.tags:
            steps = {*range(self.steps)}
            if self.way == WAYS[0]:
                steps |= {step for step, _ in stored.scalars.get((None, tag), ())}
            expected[None, tag] = [(step, float(step)) for step in range(len(steps))]
        return expected


def kill(contract: ContractBase, folder: Path, moments: int) -> Iterator[Moment]:
    """Kill as many processes as there are moments, each after a random number of records.

    Args:
        contract: Its copy in another process makes the backends.
        folder: Where the runs are, each until its moment is taken.
        moments: The number of processes.

    Yields:
        Each killed run, after it was replayed or resumed.

    Raises:
        AssertionError: A replay or a resumed run failed.
    """
    folder.mkdir(parents=True)
    job = folder / "job"
    job.write_bytes(pickle.dumps((Copy.of(contract), folder, moments)))
    receiving, sending = os.pipe()
    program = f"from {__name__} import _main; _main({str(job)!r}, {sending})"
    with (
        os.fdopen(receiving, "rb") as answers,
        tempfile.TemporaryFile() as said,
        spawn(program, stdout=said, stderr=said, pass_fds=[sending]) as process,
    ):
        os.close(sending)
        try:
            for _ in range(moments):
                try:
                    moment: Moment = pickle.load(answers)  # noqa: S301 - our child's
                except EOFError:
                    process.wait()
                    said.seek(0)
                    text = said.read().decode(errors="replace")
                    raise AssertionError(f"a process failed, and said:\n{text}") from None
                yield moment
                shutil.rmtree(moment.run.directory.parent)
        finally:
            process.kill()


# ---- the process that kills ---------------------------------------------------------------------


def _main(job: str, sending: int) -> None:
    copy, folder, moments = pickle.loads(Path(job).read_bytes())  # noqa: S301 - our parent's
    contract = copy.make()
    shuffled = random.Random(_SEED)  # noqa: S311 - no secret
    with os.fdopen(sending, "wb") as answers:
        for index in range(moments):
            moment = _kill_one(contract, folder / f"{index:03d}", WAYS[index % len(WAYS)], shuffled)
            pickle.dump(moment, answers)
            answers.flush()


def _kill_one(contract: ContractBase, folder: Path, way: str, shuffled: random.Random) -> Moment:
    """Kill one process at a random moment, and replay or resume its run in another one."""
    import metriplex

    folder.mkdir()
    receiver, sender = os.pipe()
    tags = [f"tag/{index}" for index in range(shuffled.choice(_SIZES))]
    every, flush_secs = shuffled.choice([30, 10**9]), shuffled.choice([0.01, 5.0])

    def log() -> None:
        os.close(receiver)  # so that signs of life can't be sent any more when this process dies
        backend: Any = contract.make_backend()
        backend.flush_secs = flush_secs
        _log_for_ever(backend, folder, tags, sender, every)

    child = _fork(log)
    os.close(sender)
    for _ in range(shuffled.randrange(1, min(_VALUES // len(tags) // _EVERY, 40))):
        os.read(receiver, 1)
    time.sleep(shuffled.uniform(0.0, _LATER))
    while not _has_records(folder / "r"):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(receiver)

    directory = folder / "r"
    steps = len(metriplex.read(directory).series(tags[0]).step)
    if way == WAYS[0]:
        child = _fork(lambda: _replay(contract, directory))
    else:
        step = None if way == WAYS[1] else shuffled.randrange(steps)
        steps = (steps if step is None else step + 1) + _NEW_STEPS
        child = _fork(lambda: _resume(contract, folder, tags, step))
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"a run that was killed after {steps} steps can't be {way}")
    return Moment(read_run(directory), way, steps, tags)


def _has_records(directory: Path) -> bool:
    return any(isinstance(entry.record, Scalars) for entry in read_entries(directory))


def _fork(function: Callable[[], None]) -> int:
    """Start a process, which has no thread of this one, and return its id."""
    child = os.fork()
    if not child:
        try:
            function()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the process ends here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    return child


def _log_for_ever(backend: object, folder: Path, tags: list[str], sender: int, every: int) -> None:
    """Log, and tell at intervals that it lives; flush after some records; never return."""
    from metriplex import MetricsCallback

    metrics = MetricsCallback(
        "r",
        log_dir=folder,
        backends=[backend],
        journal={"flush_secs": 0.02},
        provenance=False,
    )
    for step in count():
        metrics.log(step, dict.fromkeys(tags, float(step)))
        if step % every == every - 1:
            metrics.flush()
        if step % _EVERY == _EVERY - 1:
            os.write(sender, b".")


def _replay(contract: ContractBase, directory: Path) -> None:
    import metriplex

    [result] = metriplex.replay_run(directory, [contract.make_backend()])
    assert (result.left, result.error, [*result.damage]) == (0, None, []), result


def _resume(contract: ContractBase, folder: Path, tags: list[str], step: int | None) -> None:
    """Continue a run by some steps."""
    from metriplex import MetricsCallback

    with MetricsCallback(
        resume="r",
        resume_step=step,
        log_dir=folder,
        backends=[contract.make_backend()],
        provenance=False,
    ) as metrics:
        first = metrics.config.first_step + 1
        for one in range(first, first + _NEW_STEPS):
            metrics.log(one, dict.fromkeys(tags, float(one)))
