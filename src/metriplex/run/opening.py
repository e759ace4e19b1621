"""Beginning a run, or finding one that is to be continued and where in it to go on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from metriplex.delivery.run_journal import RunJournal, open_journal
from metriplex.errors import ConfigurationError
from metriplex.journal import (
    check_free,
    newest_step,
    next_number,
    read_entries,
    read_run,
)
from metriplex.journal.finding import find_run, run_places
from metriplex.naming import create_directory
from metriplex.records import Lane, RunInfo, Scalars
from metriplex.validation import (
    check_count,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_CHUNK = 1000


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where in a training a run begins or goes on.

    Attributes:
        step: Environment steps that were taken before.
        iteration: Training iterations that were made before.
    """

    step: int = 0
    iteration: int = 0


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A run that is about to begin, or to go on.

    Attributes:
        info: What backends know of it.
        journal: Its journal; None if there is to be none.
        place: Where it goes on.
    """

    info: RunInfo
    journal: RunJournal | None
    place: Place


def open_run(
    log_dir: str | os.PathLike[str],
    name: str,
    now: float,
    *,
    total_steps: int | None = None,
    lanes: tuple[Lane, ...] = (),
    resume: object = None,
    resume_step: int | None = None,
    journal: Mapping[str, Any] | None = None,
    run_id: str | None = None,
) -> Opened:
    """Makes the directory of a new run, or finds that of one that is continued.

    Args:
        log_dir: Where the directories of runs are.
        name: The name of a new run.
        now: Seconds since the Unix epoch.
        total_steps: Environment steps of the whole training; None if they aren't known.
        lanes: What is known of the run's lanes.
        resume: The name or directory of a run, as for `find_run`; None for a new run.
        resume_step: The step of the checkpoint, beyond which everything is superseded; None for the
            newest one that was logged, and to supersede nothing.
        journal: Options of `RunJournal`; None for no journal.
        run_id: The id of a new run, if it has one already.

    Raises:
        ConfigurationError: The directory can't be made, there is no run to continue, or another
            process has it open.
    """
    if resume is None:
        directory = create_directory(log_dir, name)
        run_id = run_id or uuid.uuid4().hex
        info = RunInfo(run_id, directory.name, directory, now, total_steps, lanes=lanes)
        return Opened(info, open_journal(info, journal), Place())
    directory = _find_resumed(resume, log_dir)
    with _explained(directory):
        info = _known(directory, total_steps, lanes, resume_step)
        opened = open_journal(info, journal)
        return Opened(info, opened, _find_place(directory, resume_step))


def look_up(
    resume: object,
    log_dir: str | os.PathLike[str],
    *,
    total_steps: int | None,
    lanes: tuple[Lane, ...],
    resume_step: int | None,
) -> tuple[RunInfo, Place]:
    """What `open_run` would open, where another process is to do so; nothing is written.

    Args:
        resume: As for `open_run`, like the others.
        log_dir: Where runs are.
        total_steps: Environment steps of the whole training.
        lanes: What is known of the run's lanes.
        resume_step: The step of the checkpoint.

    Raises:
        ConfigurationError: There is no run to continue, or a process has it open.
    """
    directory = _find_resumed(resume, log_dir)
    with _explained(directory):
        info = _known(directory, total_steps, lanes, resume_step)
        check_free(directory)
        return info, _find_place(directory, resume_step)


@contextlib.contextmanager
def _explained(directory: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the run in {str(directory)!r} can't be resumed ({type(error).__name__}: {error}): "
            f"mend that, or start a new run"
        ) from error


def _find_place(directory: Path, step: int | None) -> Place:
    if step is None:
        step = max(newest_step(directory).values(), default=0)
    return Place(step, next_iteration(directory, next_number(directory), step))


def _known(
    directory: Path, total_steps: int | None, lanes: tuple[Lane, ...], resume_step: int | None
) -> RunInfo:
    known = read_run(directory)
    return dataclasses.replace(
        known,
        directory=directory,
        total_steps=known.total_steps if total_steps is None else total_steps,
        lanes=lanes or known.lanes,
        resume_step=None if resume_step is None else resume_step + 1,
    )


def _find_resumed(resume: object, log_dir: str | os.PathLike[str]) -> Path:
    """Return the directory of the run that `resume` names, found by `find_run`.

    Raises:
        ConfigurationError: There is no such run.
    """
    if not isinstance(resume, str | os.PathLike) or not os.fspath(resume):
        raise ConfigurationError(
            f"`resume` must be a run's directory, or its name under `log_dir`; got {resume!r}"
        )
    if not any(path.is_dir() for path in run_places(resume, log_dir)):
        raise ConfigurationError(
            f"there is no run {str(resume)!r} to resume, neither under `log_dir` {str(log_dir)!r} "
            f"nor as a directory: give the name or the directory of a run that was logged before"
        )
    return find_run(resume, log_dir)


def next_iteration(run_dir: Path, end: int, step: int) -> int:
    """The index of the first training iteration after a step, as far as the journal knows.

    Args:
        run_dir: The run's directory.
        end: The number after the journal's last entry; it is read from there backwards.
        step: The step.
    """
    size = _CHUNK
    while end:
        start = max(end - size, 0)
        found = None
        for entry in read_entries(run_dir, start):
            if entry.number >= end:
                break
            record = entry.record
            if isinstance(record, Scalars) and record.step <= step and record.iteration is not None:
                found = record.iteration + 1
        if found is not None:
            return found
        end, size = start, 4 * size
    return 0


def check_resume(resume: Any, name: Any, step: Any, journal: Any) -> None:
    """Makes sure that what is given beside `resume` fits.

    Raises:
        ConfigurationError: It doesn't.
    """
    if resume is None:
        if step is not None:
            raise ConfigurationError(
                f"`resume_step` is {step!r}, and nothing is resumed: pass `resume=` too"
            )
        return
    if name is not None:
        raise ConfigurationError(
            f"a run that is resumed keeps its name; got `name={name!r}` beside `resume`: leave it "
            f"out"
        )
    if journal is None:
        raise ConfigurationError(
            "a run is resumed by its journal; got `journal=False` beside `resume`: leave it out"
        )
    if step is not None:
        check_count("resume_step", step, least=0)
