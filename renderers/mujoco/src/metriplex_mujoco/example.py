"""A small example simulation for the renderer."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import numpy as np

from metriplex_mujoco.context import import_mujoco

_MODEL = """
<mujoco>
  <worldbody>
    <light pos="0 -2 3"/>
    <geom type="plane" size="2 2 .1" rgba=".3 .4 .5 1"/>
    <body pos="0 0 1">
      <joint type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 0 0 -.7" size=".08" rgba=".9 .5 .1 1"/>
    </body>
  </worldbody>
</mujoco>
"""
_ANGLES = (-1.0, -0.5, 0.0, 0.5, 1.0)


@final
class PendulumState(NamedTuple):
    """State of the pendulum."""

    qpos: Any  # angle from hanging down, rad; float64 `[1]`


@final
class Pendulum:
    """A pendulum above a floor, with the `mujoco_model` that drawing needs."""

    def __init__(self) -> None:
        self.mujoco_model = import_mujoco().MjModel.from_xml_string(_MODEL)

    def states(self) -> list[PendulumState]:
        """Return states from the left to the right."""
        return [PendulumState(np.array([angle])) for angle in _ANGLES]
