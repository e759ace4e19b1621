"""The demo: PPO on CartPole, trained in one compiled program and logged during the training."""

from __future__ import annotations

from metriplex.demo.run import run

__all__ = ["run"]
