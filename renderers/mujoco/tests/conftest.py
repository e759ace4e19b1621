"""A small scene, and the renderers of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from metriplex_mujoco import HeadlessMujocoRenderer
from metriplex_mujoco.context import import_mujoco
from metriplex_mujoco.gl import diagnose

mujoco = import_mujoco()

SCENE = """
<mujoco>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".3 .5 .8" rgb2="0 0 .1" width="32" height="32"/>
    <material name="mirror" rgba=".5 .6 .5 1" reflectance=".6"/>
  </asset>
  <worldbody>
    <light pos="1 -1 3" dir="-.3 .3 -1" directional="true"/>
    <camera name="side" pos="0 -3 1" xyaxes="1 0 0 0 .3 1"/>
    <camera name="top" pos="0 0 4"/>
    <geom name="floor" type="plane" size="2 2 .1" material="mirror"/>
    <body name="cart" pos="0 0 .6">
      <joint name="slide" type="slide" axis="1 0 0"/>
      <geom type="box" size=".3 .2 .15" rgba=".9 .1 .1 1"/>
      <geom type="sphere" size=".1" pos="0 0 .5" rgba=".1 .2 .9 1" group="3"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 -.25 0 0 -.25 .7" size=".06" rgba=".9 .9 .1 1"/>
      </body>
    </body>
    <body name="ball" pos="-.8 0 .29"><freejoint/><geom size=".3" rgba=".1 .8 .2 1"/></body>
    <body name="target" mocap="true" pos=".8 .5 .2"><geom size=".15" contype="0"/></body>
  </worldbody>
  <actuator><motor joint="slide" ctrlrange="-1 1"/></actuator>
</mujoco>
"""

Draw = Callable[..., np.ndarray]


@pytest.fixture
def model() -> Any:
    """A cart with a pole (`qpos[:2]`), a ball (`qpos[2:]`) that touches the floor, a target."""
    return mujoco.MjModel.from_xml_string(SCENE)


@pytest.fixture
def data(model: Any) -> Any:
    """A state in which nothing is at rest."""
    data = mujoco.MjData(model)
    data.qpos[:2] = 0.2, 0.5
    mujoco.mj_forward(model, data)
    return data


@pytest.fixture(scope="session")
def gl() -> str:
    """The backend that draws on this machine; without one, tests that draw are skipped."""
    diagnosis = diagnose()
    if diagnosis.backend is None:
        pytest.skip(f"no OpenGL: {diagnosis}")
    return diagnosis.backend


@pytest.fixture
def make(gl: str, model: Any) -> Iterator[Callable[..., HeadlessMujocoRenderer]]:
    """Make renderers of the scene, and close them after the test."""
    made: list[HeadlessMujocoRenderer] = []

    def _make(width: int = 64, height: int = 48, **options: Any) -> HeadlessMujocoRenderer:
        made.append(HeadlessMujocoRenderer(model, width, height, **options))
        return made[-1]

    yield _make
    for renderer in made:
        renderer.close()


@pytest.fixture
def draw(make: Callable[..., HeadlessMujocoRenderer], data: Any) -> Draw:
    """Draw one frame of the state `data` with the given options."""

    def _draw(width: int = 64, height: int = 48, **options: Any) -> np.ndarray:
        renderer = make(width, height, **options)
        return renderer.render(renderer.select(data))

    return _draw
