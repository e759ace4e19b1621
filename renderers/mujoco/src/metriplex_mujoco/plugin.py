"""What metriplex's entry point `mujoco` in the group `metriplex.renderers` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from metriplex import Renderer, hookimpl
from metriplex_mujoco import gl
from metriplex_mujoco.example import Pendulum, PendulumState
from metriplex_mujoco.renderer import HeadlessMujocoRenderer
from metriplex_mujoco.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex_mujoco.view import CameraOption

_MODEL_NAMES = ("mujoco_model", "mj_model")


@final
class MujocoRendererPlugin:
    """Draws environments that have a `mujoco_model`; the options are `HeadlessMujocoRenderer`'s.

    Args:
        quality: `"fast"` or `"full"`.
        camera: The name or id of a camera, a `FreeCamera`, a mapping of its attributes, or None.
        flags: What to show, by the names of MuJoCo's flags.
        groups: The groups to show, by kind.
        label: What to label.
        frame: Whose coordinate frame to show.

    Raises:
        metriplex.ConfigurationError: An option can't be used. Names are compared with those of
            MuJoCo and of the model when a renderer is made.
    """

    def __init__(
        self,
        *,
        quality: str = "fast",
        camera: CameraOption = None,
        flags: Mapping[str, bool] | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        label: str | None = None,
        frame: str | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "quality": quality,
            "camera": camera,
            "flags": {} if flags is None else flags,
            "groups": {} if groups is None else groups,
            "label": label,
            "frame": frame,
        }
        View.of_options(**self._options)

    @hookimpl
    def make_renderer(self, env: object, width: int, height: int) -> Renderer | None:
        """Return a renderer if `env` or its `unwrapped` has a `mujoco_model` or `mj_model`.

        Raises:
            metriplex.ConfigurationError: The model is no `mujoco.MjModel`, or lacks the camera.
        """
        for holder in (getattr(env, "unwrapped", None), env):
            for name in _MODEL_NAMES:
                model = getattr(holder, name, None)
                if model is not None:
                    return HeadlessMujocoRenderer(model, width, height, **self._options)
        return None

    @hookimpl
    def diagnose(self) -> gl.Diagnosis:
        return gl.diagnose()

    @hookimpl
    def example_environment(self) -> tuple[Pendulum, list[PendulumState]]:
        pendulum = Pendulum()
        return pendulum, pendulum.states()
