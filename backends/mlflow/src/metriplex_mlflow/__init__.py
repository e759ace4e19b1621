"""The MLflow backend of metriplex."""

from __future__ import annotations

from metriplex_mlflow.backend import MlflowBackend

__all__ = ["MlflowBackend"]
