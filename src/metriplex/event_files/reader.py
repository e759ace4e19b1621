"""Read a TensorBoard log directory as journal entries, with one run for each event directory.

The module imports neither tensorboard nor TensorFlow. It needs the package `crc32c`, and Pillow to
decode pictures.
"""

from __future__ import annotations

import collections
import os
import re
import uuid
from collections.abc import Callable, Iterator  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from pathlib import Path
from typing import final

from metriplex.event_files.protobuf import double, inner, last, parse_message, signed
from metriplex.event_files.tfrecord import read_records
from metriplex.event_files.values import Values
from metriplex.journal.entries import Entry, Record, Resume
from metriplex.records import RunInfo

_FILES = "*tfevents*"
_LANE = re.compile(r"seed_(\d{3,})")
_UNUSUAL = re.compile(r"[^\w.+=@-]+")
_MAX_NAME = 150
STATE = ".metriplex"
"""Directory beside event files that holds the acknowledgements of a replay; it is no run."""

_WALL_TIME, _STEP, _SUMMARY, _SESSION_LOG = 1, 2, 5, 7
_UNKNOWN = {4: "a graph", 6: "a log message", 8: "run metadata", 9: "a meta graph"}
"""Fields of an event that are dropped."""

_SESSION_START = 1


@final
@dataclass(frozen=True, slots=True)
class EventRun:
    """One run of a TensorBoard log directory.

    Attributes:
        info: The run's description. The name comes from the path below the log directory; the `id`
            comes from the absolute path, so a second reading has the same `id`.
        directories: Directories of the run's event files, by lane. The directories `seed_000`, ...
            below a directory of events are its lanes, as metriplex writes them.
    """

    info: RunInfo
    directories: dict[int | None, Path]

    def entries(self, damage: Callable[[str], None] | None = None) -> Iterator[Entry]:
        """Yield all readable entries, numbered from 0, lane by lane in the order of the files.

        A session that starts at some step becomes a `Resume` at that step, as TensorBoard also
        drops earlier events of that step or a later one.

        Args:
            damage: Called with a sentence for each part that can't be read.

        Raises:
            PluginError: The package `crc32c` is not installed.
            OSError: A file can't be read.
        """
        number = 0
        for lane, directory in self.directories.items():
            for record in _records(directory, lane, damage or (lambda _: None)):
                yield Entry(number, record)
                number += 1


def event_runs(log_dir: Path, damage: Callable[[str], None] | None = None) -> list[EventRun]:
    """Return the runs of a TensorBoard log directory, sorted by path.

    Args:
        log_dir: A directory with event files at any depth. Symbolic links are followed, as
            TensorBoard does; a directory that is reached in several ways is one run.
        damage: Called with a sentence for each directory that can't be read.
    """
    top = Path(log_dir).absolute()
    found = {path for path in _directories(top, damage or (lambda _: None)) if _files(path)}
    runs: dict[Path, dict[int | None, Path]] = {}
    for directory in sorted(found):
        lane = _LANE.fullmatch(directory.name)
        if lane is not None and directory.parent in found and directory != top:
            runs.setdefault(directory.parent, {})[int(lane[1])] = directory
        else:
            runs.setdefault(directory, {})[None] = directory
    return [EventRun(_info(directory, top), lanes) for directory, lanes in runs.items()]


def _info(directory: Path, top: Path) -> RunInfo:
    parts = directory.relative_to(top).parts or [top.name]
    name = _UNUSUAL.sub("-", "_".join(parts)).strip(".-")[:_MAX_NAME] or "run"
    times = [path.stat().st_mtime for path in _files(directory)]
    identity = uuid.uuid5(uuid.NAMESPACE_URL, directory.as_uri()).hex
    return RunInfo(identity, name, directory, min(times, default=0.0))


def _directories(top: Path, damage: Callable[[str], None]) -> Iterator[Path]:
    """Yield a directory and all below it, each once, by its path without links if it has one."""

    def fail(error: OSError) -> None:
        damage(f"{error.filename} is left out: {error.strerror}")

    seen = set()
    waiting = collections.deque([top])
    while waiting:
        for name, names, _ in os.walk(waiting.popleft(), onerror=fail):
            directory = Path(name)
            found = directory.stat()
            if (found.st_dev, found.st_ino) in seen:
                names.clear()
                continue
            seen.add((found.st_dev, found.st_ino))
            names[:] = sorted(one for one in names if one != STATE)
            waiting += [path for one in names if (path := directory / one).is_symlink()]
            yield directory


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob(_FILES) if path.is_file())


def _irregular_files(directory: Path) -> list[Path]:
    found = directory.glob(_FILES)
    return sorted(path for path in found if not (path.is_file() or path.is_dir()))


def _records(directory: Path, lane: int | None, damage: Callable[[str], None]) -> Iterator[Record]:
    values = Values(lane, damage)
    started: int | None = None
    for path in _irregular_files(directory):
        damage(f"{path} is left out: it is no regular file")
    for path in _files(directory):
        unknown: collections.Counter[str] = collections.Counter()
        for data in read_records(path, damage):
            try:
                event = parse_message(data)
                step, time = signed(last(event, _STEP, 0)), double(event, _WALL_TIME)
                if _SESSION_LOG in event:
                    if last(inner(event, _SESSION_LOG), 1, 0) == _SESSION_START != started != step:
                        started = step
                        yield Resume(step)
                    continue
                unknown.update(_UNKNOWN[field] for field in event if field in _UNKNOWN)
                summary = inner(event, _SUMMARY)
            except ValueError as error:
                damage(f"{path}: an event is left out: {error}")
                continue
            started = None if summary else started
            yield from values.records(summary, step, time, str(path))
        for kind, count in unknown.items():
            damage(f"{path}: {count} x {kind} left out, which metriplex has no record for")
    values.report_unknown(directory)
