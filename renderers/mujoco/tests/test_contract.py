from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest

from metriplex.testing import RendererContract
from metriplex_mujoco import HeadlessMujocoRenderer, MujocoRendererPlugin
from metriplex_mujoco.example import PendulumState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metriplex import Renderer


@final
class TestMujocoRenderer(RendererContract):
    @pytest.fixture(autouse=True)
    def _needs_gl(self, gl: str) -> None: ...

    def make_renderer(self, width: int, height: int) -> Renderer:
        plugin = MujocoRendererPlugin()
        env, _ = plugin.example_environment()
        renderer = plugin.make_renderer(env, width, height)
        assert isinstance(renderer, HeadlessMujocoRenderer)
        return renderer

    def states(self) -> Sequence[Any]:
        return MujocoRendererPlugin().example_environment()[1]

    def bad_states(self) -> Sequence[Any]:
        return [PendulumState(np.zeros(2)), PendulumState(np.array([np.nan])), {"qpos": None}]
