"""What may change scalars before anything else sees them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

from metriplex.errors import LoggingError
from metriplex.plugins.checks import callers
from metriplex.plugins.discovery import items, make
from metriplex.plugins.hookspecs import TransformSpec
from metriplex.records import Scalars

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metriplex.records import RunInfo

logger = logging.getLogger("metriplex")


@final
class Transforms:
    """The transforms of one run, one after another. For one thread at a time."""

    def __init__(self, plugins: Sequence[tuple[str, object]] = ()) -> None:
        """Checks every plugin's hook before it is called.

        Args:
            plugins: Names and objects, in the order in which they are applied.

        Raises:
            PluginError: A hook is misspelled, isn't marked, asks for an argument that it can't be
                given, or there is none.
        """
        self._steps = [
            (name, callers(plugin, TransformSpec, "transform", name)[1].transform_scalars)
            for name, plugin in plugins
        ]
        self._reported: set[int] = set()

    def apply(self, run: RunInfo, records: Iterable[Scalars]) -> list[Scalars]:
        """Transforms records.

        Args:
            run: The run.
            records: In the order in which they were logged.

        Returns:
            What becomes of them, in the same order, without those that are dropped. A transform
            that raises, or gives what is no record, leaves the record as it was, and is told of in
            the log once.

        Raises:
            KeyboardInterrupt: Ctrl-C came.
        """
        if not self._steps:
            return list(records)
        transformed = (self._transform(run, record) for record in records)
        return [record for record in transformed if record is not None]

    def _transform(self, run: RunInfo, record: Scalars) -> Scalars | None:
        for index, (name, call) in enumerate(self._steps):
            try:
                result = call(run=run, record=record)
                if result is None:
                    return None
                if result is not record:
                    _check(result)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends nobody's run
                self._report(index, name, record, error)
            else:
                record = result
        return record

    def _report(self, index: int, name: str, record: Scalars, error: BaseException) -> None:
        if index in self._reported:
            return
        self._reported.add(index)
        logger.error(
            "transform `%s` failed at step %d (%s); this record, and any other at which it fails, "
            "goes on without it; it is not told of again",
            name,
            record.step,
            f"{type(error).__name__}: {error}",
            exc_info=error,
        )


def create_transforms(requested: object = None) -> Transforms:
    """Makes the transforms of a run.

    Args:
        requested: The name of an installed transform; a mapping from names to the options of their
            constructors; an object with the hook; or a sequence of these in any mix, which are
            applied in that order. None is none.

    Raises:
        PluginError: A transform is not installed, is installed more than once, or is broken.
        ConfigurationError: `requested` is nothing of the above, or an option's value is rejected.
    """
    if requested is None:
        return Transforms()
    asked = items("transform", requested)
    return Transforms([plugin for item in asked for plugin in make("transform", item)])


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
