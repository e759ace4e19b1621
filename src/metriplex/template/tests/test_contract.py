"""Run the contract of backends."""

from __future__ import annotations

from metriplex_template.contract import Contract as TestContract

__all__ = ["TestContract"]
