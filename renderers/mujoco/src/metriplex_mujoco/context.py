"""Create an off-screen OpenGL context; as a program, test if a context works.

As a program (`python context.py egl`) this module doesn't import metriplex, because metriplex
imports jax, which takes longer than the test itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def environment(**variables: str | None) -> Generator[None]:
    """Set variables of `os.environ` (None: no change), and restore all of them afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def import_mujoco(backend: str | None = None) -> Any:
    """Import mujoco late; the first import uses the backend that will draw.

    Without `MUJOCO_GL`, `import mujoco` loads GLFW, which needs a display. It raises if the
    libraries of `MUJOCO_GL` are missing.
    """
    if "mujoco" not in sys.modules:
        # mujoco sets `PYOPENGL_PLATFORM` permanently; PyOpenGL reads it only during its import.
        with environment(MUJOCO_GL=backend, PYOPENGL_PLATFORM=None):
            importlib.import_module("mujoco")
    return sys.modules["mujoco"]


def open_context(backend: str) -> Any:
    """Create a `mujoco.<backend>.GLContext`, independent of `MUJOCO_GL` at mujoco's import."""
    import_mujoco(backend)
    with environment(PYOPENGL_PLATFORM=None):
        module = importlib.import_module(f"mujoco.{backend}")
    # MuJoCo draws into its own frame buffer, so the one of the context can be tiny.
    return module.GLContext(1, 1)


def main(backend: str) -> None:
    """Draw a sphere and print the GL renderer; exit with a traceback or crash on failure."""
    import numpy as np

    mujoco = import_mujoco(backend)
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    context = open_context(backend)
    with context.as_current():
        buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, buffers)
        scene = mujoco.MjvScene(model, maxgeom=10)
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, camera)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, everything, scene)
        rect = mujoco.MjrRect(0, 0, 32, 32)
        mujoco.mjr_render(rect, scene, buffers)
        pixels: Any = np.zeros((32, 32, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, rect, buffers)
        gl = importlib.import_module("OpenGL.GL")
        drawn_by = gl.glGetString(gl.GL_RENDERER).decode(errors="replace")
        buffers.free()
    context.free()
    if pixels.min() == pixels.max():
        raise RuntimeError(f"{drawn_by} draws nothing: all pixels are {pixels.min()}")
    sys.stdout.write(drawn_by)


if __name__ == "__main__":
    main(sys.argv[1])
