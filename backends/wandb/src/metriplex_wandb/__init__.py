"""The Weights & Biases backend of metriplex."""

from __future__ import annotations

from metriplex_wandb.backend import WandbBackend

__all__ = ["WandbBackend"]
