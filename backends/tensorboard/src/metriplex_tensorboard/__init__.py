"""The TensorBoard backend of metriplex."""

from __future__ import annotations

from metriplex_tensorboard.backend import TensorBoardBackend

__all__ = ["TensorBoardBackend"]
