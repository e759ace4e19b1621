"""The template backend of metriplex."""

from __future__ import annotations

from metriplex_template.backend import TemplateBackend

__all__ = ["TemplateBackend"]
