"""Read the scalars, hyper-parameters and media of a run from its journal."""

from __future__ import annotations

import os  # noqa: TC003 - part of public annotations
from collections.abc import Mapping  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

import numpy as np

from metriplex.errors import ConfigurationError
from metriplex.journal.codec import decode
from metriplex.journal.entries import Close, Hparams
from metriplex.journal.finding import LOG_DIR
from metriplex.journal.lines import DamagedLineError
from metriplex.journal.reader import (
    Damage,
    first_superseded,
    read_lines,
    read_resumes,
    read_run,
)
from metriplex.reading.columns import Column, join, occurrences, scatter, to_array
from metriplex.reading.newest import newest_run
from metriplex.records import (
    Artifact,
    Histogram,
    Image,
    Media,
    RunInfo,
    Scalar,
    Scalars,
    Text,
    Video,
)

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Columns: TypeAlias = dict[str, np.ndarray]
"""Name to column; all columns have the same length."""

_KEYS = ("lane", "step", "iteration", "time")


@final
class Series(NamedTuple):
    """One tag of one lane, in the order in which it was logged.

    Attributes:
        step: Environment steps, int64 `[n]`.
        value: `[n]`: bool or int64 if all values are, float64 otherwise; object with integers
            beyond int64.
        iteration: Training iterations: int64 `[n]`, or float64 with NaN for values without one.
        time: Seconds since the Unix epoch, float64 `[n]`.
    """

    step: np.ndarray
    value: np.ndarray
    iteration: np.ndarray
    time: np.ndarray


@final
@dataclass(frozen=True, slots=True)
class MediaEntry:
    """A text, video, image, histogram or artifact of a run; `load` reads its content.

    Attributes:
        kind: `text`, `video`, `image`, `histogram` or `artifact`.
        tag: Tag; for an artifact, its name.
        step: Environment steps.
        lane: Index along the vmapped axes, or None.
        time: Seconds since the Unix epoch.
    """

    kind: str
    tag: str
    step: int
    lane: int | None
    time: float
    _fields: Mapping[str, Any]
    _run_dir: Path

    def load(self) -> Media:
        """Return the record: `metriplex.Text`, `Video`, `Image`, `Histogram` or `Artifact`.

        Raises:
            ValueError: The file of the record is missing or damaged.
        """
        record = decode(self._fields, self._run_dir)
        if not isinstance(record, Text | Video | Image | Histogram | Artifact):
            raise DamagedLineError(f"`{self.kind}` is no kind of media")
        return record


@final
class RunData:
    """All records of a run, without those that a resumed run superseded.

    Attributes:
        run: Name, directory and start time of the run.
        hparams: Hyper-parameters: name to value.
        status: `finished`, `failed` or `interrupted`; None if the run is open or was killed.
        media: Entries of texts, videos, images, histograms and artifacts, in order.
        damage: One sentence for each part that could not be read.
    """

    def __init__(self, run: RunInfo) -> None:
        self.run = run
        self.hparams: dict[str, Scalar | str] = {}
        self.status: str | None = None
        self.media: list[MediaEntry] = []
        self.damage: list[str] = []
        self._records: list[Column] = [Column() for _ in _KEYS[1:]]
        self._count = 0
        self._series: dict[tuple[int | None, str], tuple[Column, Column]] = {}

    @property
    def lanes(self) -> list[int | None]:
        """Sorted lanes with scalars: `[None]` for a run that is not vmapped."""
        lanes = {lane for lane, _ in self._series}
        return sorted(lanes, key=lambda lane: -1 if lane is None else lane)

    @property
    def tags(self) -> list[str]:
        """All tags of scalars, in the order in which they were first logged."""
        return list(dict.fromkeys(tag for _, tag in self._series))

    def __repr__(self) -> str:
        size = f"{len(self.tags)} tags, {len(self.lanes)} lanes, {self._count} records"
        return f"<RunData {self.run.name!r}: {size}, status {self.status!r}>"

    def series(self, tag: str, lane: int | None = None) -> Series:
        """Return the values of one tag in one lane.

        Args:
            tag: The tag.
            lane: The lane; None for a run that is not vmapped.

        Raises:
            KeyError: The lane has no values of this tag.
        """
        found = self._series.get((lane, tag))
        if found is None:
            raise KeyError(
                f"run `{self.run.name}` has no `{tag}` in lane {lane}: it has "
                f"{', '.join(f'`{one}`' for one in self.tags)} in {self.lanes}"
            )
        rows, values = (column.array() for column in found)
        step, iteration, time = (column.array()[rows] for column in self._records)
        return Series(step, values, iteration, time)

    def long(self) -> Columns:
        """Return the scalars as a table with one row per value, in the order of logging.

        Returns:
            Columns `lane` (only if the run is vmapped), `step`, `iteration`, `time`, `tag`,
            `value`.
        """
        keys = list(self._series)
        rows = [row.array().astype(np.int64) for row, _ in self._series.values()]
        row = np.concatenate([*rows, np.empty(0, np.int64)])
        order = np.argsort(row, kind="stable")
        lengths = [len(one) for one in rows]
        columns = dict(zip(_KEYS[1:], (c.array()[row[order]] for c in self._records), strict=True))
        which = np.repeat(np.arange(len(keys)), lengths)[order]
        columns["tag"] = np.array([tag for _, tag in keys], object)[which]
        values = join([value.array() for _, value in self._series.values()])
        columns["value"] = values[order]
        lanes = to_array([lane for lane, _ in keys])
        return {"lane": lanes[which], **columns} if self._has_lanes else columns

    def wide(self, lane: int | None = None) -> Columns:
        """Return the scalars as a table with one row per step and one column per tag.

        Rows are ordered by lane and step. If a tag was logged twice at one step, the step has a
        second row. Cells without a value are NaN. A tag with the name of another column is
        prefixed, for example `tag:step`.

        Args:
            lane: The lane to return; None for all lanes.

        Returns:
            Columns `lane` (only if the run is vmapped), `step`, `iteration`, `time` (of the first
            record of the step), then one column per tag.
        """
        lanes = self.lanes if lane is None else [lane]
        parts = [self._wide_lane(one) for one in lanes]
        sizes = [len(part["step"]) for part in parts]
        columns: Columns = {}
        if self._has_lanes:
            columns["lane"] = np.repeat(to_array(lanes), sizes)
        for name in [*_KEYS[1:], *map(_column_name, self.tags)]:
            if any(name in part for part in parts):
                missing = [np.full(size, np.nan) for size in sizes]
                columns[name] = join(
                    [part.get(name, gap) for part, gap in zip(parts, missing, strict=True)]
                )
        return columns

    def to_pandas(self, *, wide: bool = True) -> pd.DataFrame:
        """Return `wide()` or `long()` as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        return pd.DataFrame(self.wide() if wide else self.long())

    def to_polars(self, *, wide: bool = True) -> pl.DataFrame:
        """Return `wide()` or `long()` as a polars data frame.

        Raises:
            ImportError: polars is not installed.
        """
        import polars as pl

        return pl.DataFrame(self.wide() if wide else self.long())

    # ---- filling --------------------------------------------------------------------------------

    @property
    def _has_lanes(self) -> bool:
        return any(lane is not None for lane, _ in self._series)

    def _add(self, record: Scalars) -> None:
        for column, value in zip(
            self._records, (record.step, record.iteration, record.wall_time), strict=True
        ):
            column.append(value)
        for tag, value in record.values.items():
            known = self._series.get((record.lane, tag))
            if known is None:
                known = self._series[record.lane, tag] = Column(), Column()
            known[0].append(self._count)
            known[1].append(value)
        self._count += 1

    def _wide_lane(self, lane: int | None) -> Columns:
        """Return the columns of `wide` for one lane, without those of other lanes' tags."""
        found = {tag: self._series[one, tag] for one, tag in self._series if one == lane}
        step, iteration, time = (column.array() for column in self._records)
        rows = {tag: row.array().astype(np.int64) for tag, (row, _) in found.items()}
        every = np.concatenate([*rows.values(), np.empty(0, np.int64)])
        if not every.size:
            return {"step": np.empty(0, np.int64), "iteration": np.empty(0), "time": np.empty(0)}
        steps = np.unique(step[every])
        again = {tag: occurrences(step[row]) for tag, row in rows.items()}
        width = 1 + max(int(count.max()) for count in again.values())
        keys = {
            tag: np.searchsorted(steps, step[row]) * width + again[tag] for tag, row in rows.items()
        }
        joined = np.concatenate(list(keys.values()))
        table = np.unique(joined)
        first = np.full(len(table), self._count)
        np.minimum.at(first, np.searchsorted(table, joined), every)
        columns = {"step": step[first], "iteration": iteration[first], "time": time[first]}
        for tag, (_, values) in found.items():
            columns[_column_name(tag)] = scatter(
                values.array(), np.searchsorted(table, keys[tag]), len(table)
            )
        return columns


def read(run: str | os.PathLike[str], log_dir: str | os.PathLike[str] = LOG_DIR) -> RunData:
    """Read a run from its journal; the run may still be open.

    A name is looked up under `log_dir` first, then in the working directory; a path, which has a
    separator, is looked up as it is first. Of several runs of one name (`walk`, `walk_2`, ...) the
    newest is read, and a warning in the log names it; `logs/walk` is that run alone.
    `metriplex export` finds a run in the same way. `resume=` and `metriplex replay`, which continue
    a run, take the name exactly.

    Args:
        run: The run's name under `log_dir`, or its directory.
        log_dir: The directory of runs.

    Returns:
        The records of the run. Damaged records are skipped and described in `damage`.

    Raises:
        ConfigurationError: The run has no journal.
        OSError: The journal can't be read.
    """
    directory = newest_run(run, log_dir)
    try:
        data = RunData(read_run(directory))
    except ConfigurationError as error:  # the headers are damaged, but lines may be intact
        data = RunData(RunInfo("", directory.name, directory, 0.0))
        data.damage.append(str(error))
    first = first_superseded(read_resumes(directory))
    damage: Damage = data.damage.append
    for fields in read_lines(directory, damage=damage):
        try:
            _add_line(data, fields, first(fields["n"]), directory)
        except DamagedLineError as error:
            damage(f"line {fields['n']} is left out: {error}")
    return data


def _add_line(data: RunData, fields: Mapping[str, Any], limit: float, directory: Path) -> None:
    kind = fields.get("type")
    if kind not in ("scalars", "hparams", "resume", "close"):
        entry = _media_entry(fields, directory)
        if entry.step < limit:
            data.media.append(entry)
        return
    record = decode(fields, directory)
    if isinstance(record, Scalars):
        if record.step < limit:
            data._add(record)  # noqa: SLF001 - `RunData` is filled here alone
        data.status = None
    elif isinstance(record, Hparams):
        data.hparams |= record.values
    else:
        data.status = record.status if isinstance(record, Close) else None


def _media_entry(fields: Mapping[str, Any], directory: Path) -> MediaEntry:
    kind, step, lane, time = (fields.get(name) for name in ("type", "step", "lane", "time"))
    tag = fields.get("name" if kind == "artifact" else "tag")
    if not (isinstance(kind, str) and isinstance(tag, str) and type(step) is int):
        raise DamagedLineError("it has no type, tag or step")
    if not isinstance(time, int | float) or not (lane is None or type(lane) is int):
        raise DamagedLineError("it has no time or lane")
    try:
        return MediaEntry(kind, tag, step, lane, float(time), fields, directory)
    except OverflowError as error:
        raise DamagedLineError("its `time` is too large") from error


def _column_name(tag: str) -> str:
    return f"tag:{tag}" if tag in _KEYS else tag
