"""The Trackio backend of metriplex."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metriplex_trackio.backend import TrackioBackend

__all__ = ["TrackioBackend"]


def __getattr__(name: str) -> Any:
    """Import the backend at its first use.

    Trackio takes long to import, and reads the directory of its files only then.
    """
    if name not in __all__:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    from metriplex_trackio import backend

    return getattr(backend, name)
