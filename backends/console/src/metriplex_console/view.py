"""The protocol of the two views of a run: the live display, and plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex import Scalar, Scalars


class View(Protocol):
    """A view of one run. All methods are called from the worker thread of that run."""

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Show the hyper-parameters."""

    def update(self, records: Sequence[Scalars]) -> None:
        """Add records."""

    def flush(self) -> None:
        """Show values that have waited for `every_secs`."""

    def close(self, status: str) -> None:
        """Show the final state and release the output."""
