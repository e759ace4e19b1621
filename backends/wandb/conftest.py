"""Exclude the modules and the README from doctests if this distribution is not installed."""

from __future__ import annotations

import importlib.util

installed = importlib.util.find_spec("metriplex_wandb") and importlib.util.find_spec("wandb")
collect_ignore = [] if installed else ["src", "README.md"]
