"""The off-screen frame buffer of OpenGL, with the meshes and textures of a model."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import TYPE_CHECKING, Any, final

import numpy as np

from metriplex import ClosedError, ConfigurationError
from metriplex_mujoco.context import import_mujoco, open_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metriplex_mujoco.view import View

_FRAME_SECS = 10.0
"""Longest time in seconds for which `close` waits for a frame."""

_open: weakref.WeakSet[Canvas] = weakref.WeakSet()


@final
class Canvas:
    """Draw simulations of one model, in one size and one view.

    No thread owns the GL context between two calls, so any thread may make the next call. `backend`
    names the module of `mujoco` whose `GLContext` is used; the canvas owns and changes the model.

    Raises:
        metriplex.ConfigurationError: A frame buffer of this size can't be created.
    """

    def __init__(self, backend: str, model: Any, width: int, height: int, view: View) -> None:
        mujoco = self._mujoco = import_mujoco(backend)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        view.configure_model(model)
        self._model = model
        self._data = mujoco.MjData(model)
        self._shows_forces = view.shows_forces(model)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._option = view.make_option()
        self._camera = view.make_camera(model)
        # Besides geoms: sites, segments of tendons, contacts, cameras and other decoration.
        self._scene = mujoco.MjvScene(model, maxgeom=10_000 + 2 * model.ngeom + model.nsite)
        view.configure_scene(self._scene)
        self._lock = threading.Lock()
        self._closing = False
        self._buffers: Any = None
        self._context: Any = open_context(backend)
        _close_at_exit()
        _open.add(self)
        with self._context.as_current():
            try:
                self._buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            except mujoco.FatalError as error:
                raise ConfigurationError(
                    f"no frame buffer of {width} x {height} pixels can be made for MuJoCo with "
                    f"{backend.upper()}: {error}. Ask for smaller frames"
                ) from error
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._buffers)

    def draw(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Draw one frame, a new array, uint8 `[height, width, 3]`.

        `arrays` has fields of a `mujoco.MjData`, such as `qpos`; the model provides other fields.

        Raises:
            metriplex.ClosedError: Another thread or the end of the program closed the canvas.
        """
        mujoco = self._mujoco
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        # Every call of MuJoCo holds the lock: Python ends a daemon thread when it returns from a
        # call that released the GIL, and ending a thread inside MuJoCo crashes the program.
        with self._lock:
            if self._closing:
                raise ClosedError("the MuJoCo renderer was closed, or the program is ending")
            self._set_state(arrays)
            mujoco.mjv_updateScene(
                self._model, self._data, self._option, None, self._camera, everything, self._scene
            )
            with self._context.as_current():
                mujoco.mjr_render(self._rect, self._scene, self._buffers)
                mujoco.mjr_readPixels(self._pixels, None, self._rect, self._buffers)
            return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def _set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        mujoco, model, data = self._mujoco, self._model, self._data
        mujoco.mj_resetData(model, data)  # otherwise pixels depend on the frame before
        for name, array in arrays.items():
            getattr(data, name)[:] = array
        if self._shows_forces:
            mujoco.mj_forward(model, data)
            return
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        mujoco.mj_flex(model, data)
        mujoco.mj_tendon(model, data)

    def close(self) -> None:
        """Free the frame buffer and the context, after the frame that a thread may be drawing."""
        self._closing = True  # otherwise a thread that keeps drawing gets the lock first
        if not self._lock.acquire(timeout=_FRAME_SECS):
            return  # freeing buffers that a hanging driver uses would crash
        try:
            context, buffers = self._context, self._buffers
            self._context = self._buffers = None
            if buffers is not None:
                with context.as_current():
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
    """Register an exit handler after mujoco's own, so that it closes contexts before mujoco."""
    atexit.unregister(_close_all)
    atexit.register(_close_all)
