"""The pygame renderer of metriplex: draw 2D environments into an off-screen surface."""

from __future__ import annotations

from metriplex_pygame.arguments import DrawingError
from metriplex_pygame.headless import HeadlessPygameRenderer
from metriplex_pygame.renderer import PygameRenderer, PygameRendererPlugin

__all__ = ["DrawingError", "HeadlessPygameRenderer", "PygameRenderer", "PygameRendererPlugin"]
