"""Run the contract of backends."""

from __future__ import annotations

import pytest

pytest.importorskip("mlflow")

from metriplex_mlflow.contract import Contract as TestContract

__all__ = ["TestContract"]
