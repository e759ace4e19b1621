"""The part that owns OpenGL: a frame buffer off-screen, with a model's meshes and textures."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex_mujoco.context import current, import_mujoco, open_context

if TYPE_CHECKING:
    from metriplex_mujoco.view import View

_open: weakref.WeakSet[Canvas] = weakref.WeakSet()


@final
class Canvas:
    """Draws simulations of one model, in one size and one view.

    The GL context is no thread's between two calls, so any thread may make the next one.

    Args:
        backend: The module of `mujoco` whose `GLContext` is used.
        model: A `mujoco.MjModel` of its own: it is changed.
        width: Pixels.
        height: Pixels.
        view: How to look at it.
    """

    def __init__(self, backend: str, model: Any, width: int, height: int, view: View) -> None:
        mujoco = self._mujoco = import_mujoco(backend)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        view.configure_model(model)
        self._model = model
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._option = view.make_option()
        self._camera = view.make_camera(model)
        # Beside the geoms: sites, tendons' segments, contacts, cameras and other decoration.
        self._scene = mujoco.MjvScene(model, maxgeom=10_000 + 2 * model.ngeom + model.nsite)
        view.configure_scene(self._scene)
        self._lock = threading.Lock()
        self._buffers: Any = None
        self._context: Any = open_context(backend)
        _close_at_exit()
        _open.add(self)
        with current(self._context):
            self._buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._buffers)

    def draw(self, data: Any) -> np.ndarray:
        """One frame.

        Args:
            data: A `mujoco.MjData` whose positions have been computed.

        Returns:
            A new array, uint8 `[height, width, 3]`.
        """
        mujoco = self._mujoco
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        with self._lock:
            mujoco.mjv_updateScene(
                self._model, data, self._option, None, self._camera, everything, self._scene
            )
            with current(self._context):
                mujoco.mjr_render(self._rect, self._scene, self._buffers)
                mujoco.mjr_readPixels(self._pixels, None, self._rect, self._buffers)
            return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Frees the frame buffer and the context; does nothing the second time."""
        if not self._lock.acquire(blocking=False):
            return  # the program ends while a thread draws: to free what it uses would crash
        try:
            context, buffers = self._context, self._buffers
            self._context = self._buffers = None
            if buffers is not None:
                with current(context):
                    buffers.free()
            if context is not None:
                context.free()
        finally:
            self._lock.release()

    def __del__(self) -> None:
        if hasattr(self, "_context"):
            self.close()


def _close_all() -> None:
    for canvas in list(_open):
        canvas.close()


def _close_at_exit() -> None:
    """Registered after mujoco's own handler, so called before it ends what contexts live on."""
    atexit.unregister(_close_all)
    atexit.register(_close_all)
