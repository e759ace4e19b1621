"""The MuJoCo renderer of metriplex: draw simulations off-screen, with EGL or OSMesa."""

from __future__ import annotations

from metriplex_mujoco.errors import DrawingError, NoGLError
from metriplex_mujoco.gl import Diagnosis, Probe
from metriplex_mujoco.plugin import MujocoRendererPlugin
from metriplex_mujoco.renderer import HeadlessMujocoRenderer
from metriplex_mujoco.view import FreeCamera

__all__ = [
    "Diagnosis",
    "DrawingError",
    "FreeCamera",
    "HeadlessMujocoRenderer",
    "MujocoRendererPlugin",
    "NoGLError",
    "Probe",
]
