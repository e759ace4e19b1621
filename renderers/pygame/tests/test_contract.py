from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex.testing import RendererContract
from metriplex_pygame import PygameRenderer, PygameRendererPlugin
from metriplex_pygame.example import BallState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex import Renderer


@final
class TestPygameRenderer(RendererContract):
    def make_renderer(self, width: int, height: int) -> Renderer:
        plugin = PygameRendererPlugin()
        env, _ = plugin.example_environment()
        renderer = plugin.make_renderer(env, width, height)
        assert isinstance(renderer, PygameRenderer)
        return renderer

    def states(self) -> Sequence[Any]:
        return PygameRendererPlugin().example_environment()[1]

    def bad_states(self) -> Sequence[Any]:
        return [BallState(np.float32(np.nan)), BallState(np.zeros(2)), ()]
