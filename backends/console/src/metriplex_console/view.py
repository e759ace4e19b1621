"""What shows one run: either live on a terminal, or line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex import Scalar, Scalars


class View(Protocol):
    """Shows one run. All methods are called from the worker thread of that run."""

    def hparams(self, hparams: Mapping[str, Scalar | str]) -> None:
        """Shows the hyper-parameters."""

    def update(self, records: Sequence[Scalars]) -> None:
        """Takes records in."""

    def flush(self) -> None:
        """Shows what has waited long enough."""

    def close(self, status: str) -> None:
        """Shows the final state and lets go of the output."""
