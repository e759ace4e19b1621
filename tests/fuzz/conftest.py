"""The harness is a program of its own, which instruments what it imports."""

from __future__ import annotations

collect_ignore = ["harness.py"]
