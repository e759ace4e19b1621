"""The MLflow backend of metriplex."""

from __future__ import annotations

from metriplex_mlflow import library  # first: it restores what MLflow's import changes
from metriplex_mlflow.backend import MlflowBackend

__all__ = ["MlflowBackend"]

del library
