"""The console backend of metriplex: a live table, a chart and a progress bar in the terminal."""

from __future__ import annotations

from metriplex_console import library  # first: it restores what rich's import changes
from metriplex_console.backend import ConsoleBackend

__all__ = ["ConsoleBackend"]

del library
