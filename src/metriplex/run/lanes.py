"""Check the names and hyper-parameters of a run's lanes, and count the program's lanes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex.errors import ConfigurationError
from metriplex.naming import check_name
from metriplex.records import Lane, lane_name

if TYPE_CHECKING:
    from metriplex.bridge.rows import Rows
    from metriplex.records import RunInfo

logger = logging.getLogger("metriplex")

_RESERVED = frozenset({"artifacts", "journal"})


def make_lanes(hparams: Any, names: Any) -> tuple[Lane, ...]:
    """Return the lanes of a run from the user's `lanes` and `lane_names`; empty if both are None.

    The shapes of the hyper-parameters broadcast to the shape of the vmapped axes, outermost axis
    first (such as `lr[:, None]` and `seed`), and are flattened in that order, which is that of the
    names. Raises `ConfigurationError` for an invalid name, a value that no backend can store, and
    numbers of lanes that don't match.
    """
    columns = {} if hparams is None else _columns(hparams)
    given = None if names is None else _names(names)
    counts = {len(values) for values in columns.values()}
    if given is not None:
        counts.add(len(given))
    if len(counts) > 1:
        lanes = len(next(iter(columns.values())))
        raise ConfigurationError(
            f"`lanes` has values for {lanes} lanes, and `lane_names` has {len(given or ())} names: "
            f"give as many"
        )
    return tuple(
        Lane(
            lane_name(index) if given is None else given[index],
            {name: values[index] for name, values in columns.items()},
        )
        for index in range(max(counts, default=0))
    )


def _columns(hparams: Any) -> dict[str, list[Any]]:
    if not isinstance(hparams, Mapping) or not hparams:
        raise ConfigurationError(
            f"`lanes` must be a mapping of names to values, one a lane; got {hparams!r}: pass for "
            f'example `lanes={{"lr": learning_rates}}`'
        )
    arrays = {name: _array(name, values) for name, values in hparams.items()}
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shape = ()
    if not shape or 0 in shape:
        shown = ", ".join(f"`{name}` {list(array.shape)}" for name, array in arrays.items())
        raise ConfigurationError(
            f"`lanes` must hold arrays of one shape, that of the vmapped axes; got {shown}"
        )
    return {name: np.broadcast_to(array, shape).ravel().tolist() for name, array in arrays.items()}


def _array(name: Any, values: Any) -> np.ndarray:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"the names in `lanes` must be strings that are not empty; got {name!r}"
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # typed PRNG keys, ragged lists
        array = np.asarray(None)
    if array.dtype.kind == "V" and array.dtype.names is None:  # bfloat16 and its like
        array = array.astype(np.float32)
    if array.dtype.kind not in "biufU":
        raise ConfigurationError(
            f"`lanes` must hold numbers, bools or strings; got {type(values).__name__} for "
            f"`{name}`: of PRNG keys pass the seeds that they were made from"
        )
    return array


def _names(names: Any) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray) or not len(names):
        raise ConfigurationError(
            f"`lane_names` must be a sequence of names, one a lane; got {names!r}"
        )
    seen: set[str] = set()
    for name in names:
        try:
            check_name(name)
        except ConfigurationError as error:
            raise ConfigurationError(f"`lane_names` are names of directories: {error}") from error
        if name.casefold() in _RESERVED:
            raise ConfigurationError(
                f"`lane_names` are names of directories, and `{name}` is a directory of the run "
                f"itself: take another name"
            )
        if name.casefold() in seen:  # some file systems ignore case
            raise ConfigurationError(f"`lane_names` must be unique; `{name}` is there twice")
        seen.add(name.casefold())
    return [str(name) for name in names]


@final
class LaneCount:
    """Count the lanes of a run's programs; warn once if the count differs from the description.

    Not thread-safe. `in_parts` is True if other processes may have the remaining lanes. `known` is
    the number of lanes of the newest program, 0 if its rows don't contain the number.
    """

    def __init__(self, run: RunInfo, *, in_parts: bool = False) -> None:
        self._run = run
        self._warned = not run.lanes
        self.known = 0
        self._in_parts = in_parts

    @property
    def here(self) -> int:
        """Number of lanes that log to this process; 0 if unknown."""
        return 0 if self._in_parts else self.known

    def look(self, rows: Rows) -> None:
        """Count the lanes of rows, which come from one or more blocks."""
        # Rows without a sequence number (the start, a `log`) may lack some of the vmapped axes.
        counted = ((rows.lane >= 0) & (rows.sequence >= 0)).nonzero()[0]
        if not len(counted):
            return
        self.known = int(rows.lanes[counted[0]])
        if self._warned:
            return
        if self.known:
            self._compare(self.known, f"{self.known} lane(s)")
        else:
            seen = 1 + int(rows.lane.max())
            if seen > len(self._run.lanes):
                self._compare(seen, f"{seen} lanes or more")

    def end(self, seen: Collection[int | None]) -> None:
        """Compare the lanes that have logged, at the end of a program whose rows lack the number.

        None among them stands for records without a lane.
        """
        if seen and not self._warned and not self.known and not self._in_parts:
            lanes = [lane for lane in seen if lane is not None]
            none = "no lanes (nothing is vmapped, or its lanes are identical)"
            self._compare(len(lanes), f"{len(lanes)} lane(s)" if lanes else none)

    def _compare(self, count: int, found: str) -> None:
        described = self._run.lanes
        if count == len(described):
            return
        self._warned = True
        effect, advice = "have no name and no hyper-parameters of their own", ""
        if count < len(described):
            effect = "stay empty"
            advice = ", and `on_iteration(key=)` where lanes differ in nothing that is logged"
        logger.warning(
            "run `%s`: its program has %s, while `lanes` or `lane_names` describe %d, `%s` to "
            "`%s`: lanes from `%s` on %s; give one value and one name a lane, counted over all "
            "vmapped axes%s",
            self._run.name,
            found,
            len(described),
            described[0].name,
            described[-1].name,
            self._run.lane_name(min(count, len(described))),
            effect,
            advice,
        )
