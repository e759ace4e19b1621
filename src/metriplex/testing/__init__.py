"""The contracts of plugins, as pytest classes to subclass.

A plugin that passes its contract works with metriplex: `BackendContract` tests backends,
`RendererContract` tests renderers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from metriplex.testing.stored import Series, Stored

if TYPE_CHECKING:
    from metriplex.testing.renderers import RendererContract

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

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        """Import the contract of renderers at its first use: it needs jax, a backend has none."""
        if name != "RendererContract":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from metriplex.testing.renderers import RendererContract

        globals()[name] = RendererContract
        return RendererContract
