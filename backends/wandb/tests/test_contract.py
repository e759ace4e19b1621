"""Run the contract of backends."""

from __future__ import annotations

import pytest

pytest.importorskip("wandb")

from metriplex_wandb.contract import Contract as TestContract

__all__ = ["TestContract"]
