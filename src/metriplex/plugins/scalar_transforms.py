"""Scalar transforms: plugins that change or drop scalars before any backend gets them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

from metriplex.errors import LoggingError
from metriplex.plugins.discovery import items, make
from metriplex.plugins.host import Host
from metriplex.records import Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metriplex.records import RunInfo

logger = logging.getLogger("metriplex")


@final
class Transforms:
    """The transforms of one run, applied one after another. For one thread at a time.

    Args:
        plugins: Names and objects, in the order in which they are applied.
        host: The plugins of the run; None for a host of the transforms alone.

    Raises:
        PluginError: A plugin fails `check_hooks`.
    """

    def __init__(
        self, plugins: Sequence[tuple[str, object]] = (), host: Host | None = None
    ) -> None:
        host = host or Host()
        host.register("transform", plugins)
        # One call of `host.hook` would give every transform the same record and stop at the first
        # result. Here each result is the record of the next transform.
        self._steps = host.implementations("transform_scalars")
        self._failed: set[str] = set()

    def __bool__(self) -> bool:
        """Return True if there is any transform."""
        return bool(self._steps)

    def apply(self, run: RunInfo, records: Iterable[Scalars]) -> list[Scalars]:
        """Return the transformed records in the same order, without those that are dropped.

        A transform that raises anything but KeyboardInterrupt, or returns what is no record, leaves
        the record as it was, and is logged once.
        """
        transformed = (self._transform(run, record) for record in records)
        return [record for record in transformed if record is not None]

    def _transform(self, run: RunInfo, record: Scalars) -> Scalars | None:
        for plugin, call in self._steps:
            try:
                result = call(run=run, record=record)
                if result is None:
                    return None
                if result is not record:
                    _check(result)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends nobody's run
                self._report(plugin, record, error)
            else:
                record = result
        return record

    def _report(self, plugin: str, record: Scalars, error: BaseException) -> None:
        if plugin in self._failed:
            return
        self._failed.add(plugin)
        logger.error(
            "%s failed at step %d (%s); this record, and any other at which it fails, "
            "goes on without it; it is not told of again",
            plugin,
            record.step,
            f"{type(error).__name__}: {error}",
            exc_info=error,
        )


def create_transforms(requested: object = None, host: Host | None = None) -> Transforms:
    """Make the transforms of a run.

    Args:
        requested: What `make` takes, or a sequence of it, applied in that order. None means no
            transform.
        host: The plugins of the run; None for a host of the transforms alone.

    Raises:
        PluginError: A transform is not installed, is installed more than once, or is broken.
        ConfigurationError: `requested` is nothing of the above, or an option's value is rejected.
    """
    asked = [] if requested is None else items("transform", requested)
    return Transforms([plugin for item in asked for plugin in make("transform", item)], host)


def _check(result: object) -> None:
    if not isinstance(result, Scalars):
        raise LoggingError(
            f"`transform_scalars` must give a `metriplex.Scalars` or None; got {result!r}"
        )
    if not isinstance(result.step, int) or result.step < 0:
        raise LoggingError(f"`step` of a record must be an int from 0 on; got {result.step!r}")
    for tag, value in result.values.items():
        if not isinstance(tag, str) or not tag or not isinstance(value, bool | int | float):
            raise LoggingError(
                f"the values of a record must be bools, ints or floats by tags that are not empty; "
                f"got {tag!r}: {value!r}: pass for example `value.item()`"
            )
