"""Opening a run: a new one, or one that is continued from a step of its journal."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import uuid
from typing import TYPE_CHECKING, Any, final

from metriplex.delivery.run_journal import RunJournal, open_journal
from metriplex.errors import ConfigurationError
from metriplex.journal import check_free, newest_step, next_number, read_entries, read_run
from metriplex.journal.finding import find_run, run_places
from metriplex.naming import (
    create_directory,
    free_directory,
    local_directory,
    missing_directories,
    reserve_standard_descriptors,
)
from metriplex.records import RunInfo, Scalars
from metriplex.validation import check_count

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from metriplex.records import Lane

logger = logging.getLogger("metriplex")

_CHUNK = 1000


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The steps and iterations of a training that precede a run, or its continuation."""

    step: int = 0
    iteration: int = 0


@final
@dataclasses.dataclass(frozen=True, slots=True)
class RunSpec:
    """A run to open: a new one, or one to continue.

    Attributes:
        log_dir: The directory of runs.
        name: Name of a new run, unless that name is taken.
        start_time: Start of a new run, in seconds since the Unix epoch.
        total_steps: Environment steps of the whole training; None if they aren't known.
        lanes: Descriptions of the run's lanes; empty if there are none.
        resume: Name or directory of a run to continue, as for `find_run`; None for a new run.
        resume_step: Step of the checkpoint, beyond which everything is superseded; None for the
            newest step that was logged, and to supersede nothing.
        journal: Options of `RunJournal`; None for no journal.
        run_id: Id of a new run; None for a fresh one.
    """

    log_dir: str | os.PathLike[str]
    name: str
    start_time: float
    total_steps: int | None = None
    lanes: tuple[Lane, ...] = ()
    resume: object = None
    resume_step: int | None = None
    journal: Mapping[str, Any] | None = None
    run_id: str | None = None


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A run that is about to begin or to continue at a place; its journal is None without one."""

    info: RunInfo
    journal: RunJournal | None
    place: Place
    undo: contextlib.ExitStack

    def discard(self) -> None:
        """Close the journal, and remove what was made; the run hasn't begun."""
        self.undo.close()


def open_run(spec: RunSpec) -> Opened:
    """Make the directory of a new run, or find the run that is continued, and open its journal.

    A run that is continued stays as it is until `RunJournal.begin`. Raises `ConfigurationError` if
    the directory can't be made, there is no run to continue, or another process has it open;
    everything is then as before.
    """
    reserve_standard_descriptors()
    with contextlib.ExitStack() as undo:
        if spec.resume is None:
            undo.callback(_remove_empty, missing_directories(local_directory(spec.log_dir)))
            directory = create_directory(spec.log_dir, spec.name)
            undo.callback(_remove_empty, [directory])
            info, place = _new_info(spec, directory), Place()
            journal = _open_journal(info, spec.journal, undo)
        else:
            directory = _find_resumed(spec.resume, spec.log_dir)
            with _explained(directory):
                place = _find_place(directory, spec.resume_step)
                info = _resumed_info(spec, directory, place)
                journal = _open_journal(info, spec.journal, undo)
        return Opened(info, journal, place, undo.pop_all())


def _open_journal(
    info: RunInfo, options: Mapping[str, Any] | None, undo: contextlib.ExitStack
) -> RunJournal | None:
    journal = open_journal(info, options)
    if journal is not None:
        undo.callback(journal.discard)
    return journal


def _remove_empty(directories: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # another run is there by now
        for directory in directories:
            directory.rmdir()


def look_up(spec: RunSpec) -> tuple[RunInfo, Place]:
    """Return the run that `open_run` would open, for another process to do so; write nothing."""
    if spec.resume is None:
        return _new_info(spec, free_directory(local_directory(spec.log_dir), spec.name)), Place()
    directory = _find_resumed(spec.resume, spec.log_dir)
    with _explained(directory):
        place = _find_place(directory, spec.resume_step)
        info = _resumed_info(spec, directory, place)
        check_free(directory)
        return info, place


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


def _new_info(spec: RunSpec, directory: Path) -> RunInfo:
    run_id = spec.run_id or uuid.uuid4().hex
    if directory.name == spec.name:
        logger.info("run `%s`: it is logged to %s", spec.name, directory)
    else:  # two runs are easily taken for one
        logger.warning(
            "run `%s`: the name `%s` is taken, so it is logged to %s",
            *(directory.name, spec.name, directory),
        )
    return RunInfo(
        run_id, directory.name, directory, spec.start_time, spec.total_steps, lanes=spec.lanes
    )


def _resumed_info(spec: RunSpec, directory: Path, place: Place) -> RunInfo:
    known = read_run(directory)
    return dataclasses.replace(
        known,
        directory=directory,
        total_steps=known.total_steps if spec.total_steps is None else spec.total_steps,
        lanes=spec.lanes or known.lanes,
        # Without a step of the user's too: a backend may hold records that the journal lacks.
        resume_step=place.step + 1,
    )


def _find_resumed(resume: object, log_dir: str | os.PathLike[str]) -> Path:
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
    """Return the index of the first training iteration after a step, 0 if the journal has none.

    The journal is read backwards from `end`, the number after its last entry.
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
    """Raise a ConfigurationError if an argument doesn't fit to `resume`."""
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
