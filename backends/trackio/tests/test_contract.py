"""Run the contract of backends."""

from __future__ import annotations

import pytest

pytest.importorskip("metriplex_trackio")

from metriplex_trackio.contract import Contract as TestContract

__all__ = ["TestContract"]
