"""The contracts that plugins keep, as test classes to subclass; they need pytest.

Whoever passes them works with metriplex: `BackendContract` is for backends, `RendererContract` for
renderers.
"""

from __future__ import annotations

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the contracts of `metriplex.testing` are pytest classes, and pytest is not installed: "
        "`pip install 'metriplex[testing]'`",
        name=error.name,
    ) from error

from metriplex.testing.clips import read_clip, read_picture
from metriplex.testing.contract import BackendContract
from metriplex.testing.memory import MemoryBackend
from metriplex.testing.renderers import RendererContract
from metriplex.testing.stored import Series, Stored

del pytest

__all__ = [
    "BackendContract",
    "MemoryBackend",
    "RendererContract",
    "Series",
    "Stored",
    "read_clip",
    "read_picture",
]
