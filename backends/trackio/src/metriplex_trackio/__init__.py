"""The Trackio backend of metriplex."""

from __future__ import annotations

import random
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
    state = random.getstate()  # Trackio's import changes it
    try:
        from metriplex_trackio import backend
    finally:
        random.setstate(state)
    return getattr(backend, name)
