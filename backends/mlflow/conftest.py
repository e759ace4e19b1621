"""Exclude the modules and the README from doctests if this distribution is not installed."""

from __future__ import annotations

import importlib.util

installed = importlib.util.find_spec("metriplex_mlflow") and importlib.util.find_spec("mlflow")
collect_ignore = [] if installed else ["src", "README.md"]
