"""The contracts of plugins, as pytest classes to subclass.

A plugin that passes its contract works with metriplex: `BackendContract` tests backends,
`RendererContract` tests renderers.
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
