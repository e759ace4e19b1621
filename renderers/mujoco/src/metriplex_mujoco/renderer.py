"""Draws the states of a MuJoCo simulation, without a display."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, final

from metriplex import ClosedError, ConfigurationError, Renderer
from metriplex_mujoco.canvas import Canvas
from metriplex_mujoco.context import import_mujoco
from metriplex_mujoco.gl import choose_backend
from metriplex_mujoco.states import Layout
from metriplex_mujoco.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from metriplex_mujoco.view import CameraOption


@final
class HeadlessMujocoRenderer(Renderer):
    """Draws states of one model off-screen.

    Nothing of OpenGL is touched before the first `render`: until then the renderer can be pickled
    and drawn with in another process. `render` and `close` may be called from any thread, one
    call after another.

    Args:
        model: A `mujoco.MjModel`. It is not changed, and must not be until the first `render`.
        width: Width of a frame in pixels; the model's `offwidth` is no limit.
        height: Height of a frame in pixels; the model's `offheight` is no limit.
        quality: `"fast"` leaves out shadows, reflections and the smoothing of edges, which on a
            CPU takes a tenth of the time; `"full"` draws them as the model asks.
        camera: The name or the id of one of the model's cameras; or a `FreeCamera`, or a mapping
            of its attributes. None is the model's camera `track`, if it has one, else MuJoCo's
            default free camera.
        flags: What to show, by the names of MuJoCo's `mjtVisFlag` and `mjtRndFlag` without their
            prefixes, for example `{"contactforce": True, "shadow": True, "skybox": False}`.
        groups: The groups to show, for example `{"geom": [0, 1, 2], "site": []}`.
        label: What to label, by the names of `mjtLabel`, for example `"body"`.
        frame: Whose coordinate frame to show, by the names of `mjtFrame`, for example `"world"`.

    Raises:
        metriplex.ConfigurationError: An argument can't be used.
    """

    def __init__(
        self,
        model: Any,
        width: int = 640,
        height: int = 480,
        *,
        quality: str = "fast",
        camera: CameraOption = None,
        flags: Mapping[str, bool] | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        label: str | None = None,
        frame: str | None = None,
    ) -> None:
        if not isinstance(model, import_mujoco().MjModel):
            raise ConfigurationError(
                f"`model` of the MuJoCo renderer must be a `mujoco.MjModel`; "
                f"got `{type(model).__module__}.{type(model).__qualname__}`"
            )
        for name, value in (("width", width), ("height", height)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"`{name}` of the MuJoCo renderer must be a whole number of pixels from 1; "
                    f"got {value!r}"
                )
        self._view = View.of_options(
            quality=quality,
            camera=camera,
            flags={} if flags is None else flags,
            groups={} if groups is None else groups,
            label=label,
            frame=frame,
        )
        self._view.make_option()  # names that MuJoCo doesn't know are errors here and now
        self._view.make_camera(model)
        self._layout = Layout.of_model(model, forces=self._view.shows_forces(model))
        self._width = width
        self._height = height
        self._model: Any = model  # or its pickle
        self._canvas: Canvas | None = None
        self._closed = False

    def select(self, state: Any) -> dict[str, Any]:
        """Takes from a state the arrays that drawing needs, a few hundred bytes.

        Args:
            state: mjx data, `mujoco.MjData` or anything else with `qpos`; or a state that has one
                of them as `sim_state`, `data` or `pipeline_state`, behind `unwrapped` or not.

        Returns:
            `qpos [nq]`; `mocap_pos [nmocap, 3]`, `mocap_quat [nmocap, 4]` and `act [na]` if the
            model has any; `qvel [nv]` and `ctrl [nu]` if forces or actuators are shown.

        Raises:
            DrawingError: No simulation of this model is in the state.
        """
        return self._layout.select(state)

    def render(self, selected: Any) -> np.ndarray:
        """Draws one frame; the first call makes the GL context, which takes about half a second.

        Args:
            selected: What `select` gave, as NumPy arrays.

        Returns:
            A new array, uint8 `[height, width, 3]`, RGB.

        Raises:
            DrawingError: The arrays are of other shapes, or not finite.
            NoGLError: No OpenGL works here.
            metriplex.ConfigurationError: OpenGL can't draw frames as large as this.
            metriplex.ClosedError: After `close`.
        """
        if self._closed:
            raise ClosedError("`render` was called after `close`: make a new renderer")
        arrays = self._layout.check(selected)
        if self._canvas is None:
            self._canvas = self._make_canvas()
        return self._canvas.draw(arrays)

    def _make_canvas(self) -> Canvas:
        backend = choose_backend()
        import_mujoco(backend)
        model = pickle.loads(self._model) if isinstance(self._model, bytes) else self._model  # noqa: S301 - our own pickle
        return Canvas(backend, copy.copy(model), self._width, self._height, self._view)

    def close(self) -> None:
        """Frees the GL context; may be called twice, and without a `render` before."""
        self._closed = True
        canvas, self._canvas = self._canvas, None
        if canvas is not None:
            canvas.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._canvas is not None:
            raise TypeError(
                "a `HeadlessMujocoRenderer` can't be pickled after its first `render`, for it "
                "holds a GL context: pickle it before"
            )
        # Bytes, so that unpickling doesn't import mujoco before the GL backend is chosen.
        model = self._model if isinstance(self._model, bytes) else pickle.dumps(self._model)
        return self.__dict__ | {"_model": model}
