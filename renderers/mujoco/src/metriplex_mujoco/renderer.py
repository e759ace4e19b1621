"""Draw states of a MuJoCo simulation without a display."""

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
    """Draw states of one model off-screen.

    OpenGL is not used before the first `render`: until then the renderer can be pickled and sent to
    another process. Any thread may call `render` and `close`, one call after another.

    Args:
        model: A `mujoco.MjModel`. It is not changed, and must not change before the first `render`.
        width: Width of a frame in pixels; the model's `offwidth` is no limit.
        height: Height of a frame in pixels; the model's `offheight` is no limit.
        quality: `"fast"` draws without shadows, reflections and multisampling, in a tenth of the
            time on a CPU; `"full"` draws as the model specifies.
        camera: Name or id of a camera of the model, or a `FreeCamera`, or a mapping of its
            attributes. None is the model's camera `track`, or MuJoCo's default free camera if the
            model has no camera `track`.
        flags: Elements to show, by the names of MuJoCo's `mjtVisFlag` and `mjtRndFlag` without
            prefix, for example `{"contactforce": True, "shadow": True, "skybox": False}`.
        groups: The groups to show, for example `{"geom": [0, 1, 2], "site": []}`.
        label: Elements to label, by the names of `mjtLabel`, for example `"body"`.
        frame: Coordinate frames to show, by the names of `mjtFrame`, for example `"world"`.

    Raises:
        metriplex.ConfigurationError: An argument is invalid.
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
        self._view.make_option()  # raises for names that MuJoCo doesn't know
        self._view.make_camera(model)
        self._layout = Layout.of_model(model, forces=self._view.shows_forces(model))
        self._width = width
        self._height = height
        self._model: Any = model  # or its pickle
        self._canvas: Canvas | None = None
        self._closed = False

    def select(self, state: Any) -> dict[str, Any]:
        """Select the arrays of a state that drawing needs, a few hundred bytes.

        Args:
            state: mjx data, `mujoco.MjData` or another object with `qpos`; or a state that has such
                an object as `sim_state`, `data` or `pipeline_state`, also behind `unwrapped`.

        Returns:
            `qpos [nq]`; `mocap_pos [nmocap, 3]`, `mocap_quat [nmocap, 4]` and `act [na]` if the
            model has any; `qvel [nv]` and `ctrl [nu]` if forces or actuators are shown.

        Raises:
            DrawingError: The state has no simulation of this model.
        """
        return self._layout.select(state)

    def render(self, selected: Any) -> np.ndarray:
        """Draw one frame; the first call creates the GL context in about half a second.

        Args:
            selected: Result of `select`, as NumPy arrays.

        Returns:
            A new array, uint8 `[height, width, 3]`, RGB.

        Raises:
            DrawingError: An array has a wrong shape, or is not finite.
            NoGLError: No OpenGL works on this machine.
            metriplex.ConfigurationError: OpenGL can't draw frames of this size.
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
        """Free the GL context; may be called twice, and without a `render` before."""
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
