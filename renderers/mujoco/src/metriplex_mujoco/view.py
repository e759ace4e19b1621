"""The view of a scene: camera, quality, and visible elements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

from metriplex import ConfigurationError
from metriplex_mujoco.context import import_mujoco

QUALITIES = ("fast", "full")

_OF_FORCES = frozenset(
    {"actuator", "activation", "constraint", "contact", "contactforce", "contactpoint"}
    | {"contactsplit", "island"}
)
"""Flags, labels and frames that need a whole forward pass of the simulation."""


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeCamera:
    """A free camera; attributes that are None have the values of MuJoCo's own free camera.

    Attributes:
        lookat: Point in the middle of the picture, in metres; ignored with `track`.
        distance: Distance from that point, in metres.
        azimuth: Angle around the vertical axis, in degrees.
        elevation: Angle in degrees; -90 looks straight down.
        track: Name of a body that the camera follows.
        orthographic: True for an orthographic projection.
    """

    lookat: tuple[float, float, float] | None = None
    distance: float | None = None
    azimuth: float | None = None
    elevation: float | None = None
    track: str | None = None
    orthographic: bool | None = None


CameraOption = str | int | FreeCamera | Mapping[str, Any] | None


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Options of `HeadlessMujocoRenderer`, checked and picklable."""

    quality: str = "fast"
    camera: str | int | FreeCamera | None = None
    flags: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    label: str | None = None
    frame: str | None = None

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            raise _unknown("quality", self.quality, QUALITIES)
        if isinstance(self.camera, bool) or not isinstance(
            self.camera, (str, int, FreeCamera, type(None))
        ):
            raise ConfigurationError(
                f"`camera` of the MuJoCo renderer must be a name, an id, a `FreeCamera`, a mapping "
                f"of its attributes, or None; got {self.camera!r}"
            )
        for option in ("flags", "groups"):
            value = getattr(self, option)
            if not isinstance(value, Mapping):
                raise ConfigurationError(
                    f"`{option}` of the MuJoCo renderer must be a mapping; got {value!r}"
                )
            object.__setattr__(self, option, dict(value))  # a mapping that can be pickled

    @classmethod
    def of_options(cls, *, camera: CameraOption, **options: Any) -> View:
        """Return the view of a user's options; a free camera may be a mapping of its attributes."""
        if isinstance(camera, Mapping):
            known = [field.name for field in dataclasses.fields(FreeCamera)]
            for name in camera:
                if name not in known:
                    raise _unknown("camera", name, known)
            camera = FreeCamera(**camera)
        return cls(camera=camera, **options)

    def shows_forces(self, model: Any) -> bool:
        """Return True if drawing needs velocities, controls and a whole forward pass."""
        rays = import_mujoco().mjtSensor.mjSENS_RANGEFINDER.value
        shown = {name.lower() for name, value in self.flags.items() if value}
        shown |= {name.lower() for name in (self.label, self.frame) if name is not None}
        has_rays = bool((model.sensor_type == rays).any())
        shows_rays = has_rays and self.flags.get("rangefinder", True)
        return shows_rays or not shown.isdisjoint(_OF_FORCES)

    def configure_model(self, model: Any) -> None:
        """Set the values of a model that a GL context reads at its creation; changes the model."""
        if self.quality == "fast":
            model.vis.quality.offsamples = 0
        if not self._scene_flags().get("shadow", True):
            model.vis.quality.shadowsize = 0

    def configure_scene(self, scene: Any) -> None:
        """Set the rendering flags of a `mujoco.MjvScene`."""
        members = _members("mjtRndFlag", "mjRND_")
        for name, value in self._scene_flags().items():
            if name in members:
                scene.flags[members[name]] = value

    def _scene_flags(self) -> dict[str, bool]:
        cheap = {"shadow": False, "reflection": False} if self.quality == "fast" else {}
        return cheap | {name.lower(): bool(value) for name, value in self.flags.items()}

    def make_option(self) -> Any:
        """Return a `mujoco.MjvOption`; raise `ConfigurationError` for a name that is unknown."""
        option = import_mujoco().MjvOption()
        visual, rendering = _members("mjtVisFlag", "mjVIS_"), _members("mjtRndFlag", "mjRND_")
        for name, value in self.flags.items():
            if name.lower() in visual:
                option.flags[visual[name.lower()]] = bool(value)
            elif name.lower() not in rendering:
                raise _unknown("flags", name, [*visual, *rendering])
        for kind, shown in self.groups.items():
            kinds = [name.removesuffix("group") for name in dir(option) if name.endswith("group")]
            if kind not in kinds:
                raise _unknown("groups", kind, kinds)
            group = getattr(option, f"{kind}group")
            if not all(isinstance(i, int) and 0 <= i < len(group) for i in shown):
                raise ConfigurationError(
                    f"`groups[{kind!r}]` of the MuJoCo renderer must be numbers from 0 to "
                    f"{len(group) - 1}, the groups to show; got {shown!r}"
                )
            group[:] = 0
            group[list(shown)] = 1
        for what, prefix in (("label", "mjLABEL_"), ("frame", "mjFRAME_")):
            name = getattr(self, what)
            if name is not None:
                members = _members(f"mjt{what.title()}", prefix)
                if name.lower() not in members:
                    raise _unknown(what, name, members)
                setattr(option, what, members[name.lower()])
        return option

    def make_camera(self, model: Any) -> Any:
        """Return a `mujoco.MjvCamera`; raise `ConfigurationError` for a name that is unknown."""
        mujoco = import_mujoco()
        wanted = self.camera
        if wanted is None:  # as other viewers do; otherwise a runner soon leaves the picture
            names = [model.camera(i).name for i in range(model.ncam)]
            wanted = "track" if "track" in names else FreeCamera()
        camera = mujoco.MjvCamera()
        if isinstance(wanted, FreeCamera):
            mujoco.mjv_defaultFreeCamera(model, camera)
            for name in ("lookat", "distance", "azimuth", "elevation", "orthographic"):
                value = getattr(wanted, name)
                if value is not None:
                    setattr(camera, name, value)
            if wanted.track is not None:
                camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING.value
                camera.trackbodyid = _find(model, "body", wanted.track)
            return camera
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        camera.fixedcamid = _find(model, "camera", wanted)
        return camera


def _members(enum: str, prefix: str) -> dict[str, int]:
    """Return the names of an enumeration of MuJoCo for users: `shadow` for `mjRND_SHADOW`."""
    members = getattr(import_mujoco(), enum).__members__
    return {
        name.removeprefix(prefix).lower(): member.value
        for name, member in members.items()
        if name.startswith(prefix)
    }


def _find(model: Any, kind: str, wanted: str | int) -> int:
    count = {"camera": model.ncam, "body": model.nbody}[kind]
    names = [getattr(model, kind)(i).name for i in range(count)]
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if isinstance(wanted, int) and 0 <= wanted < count:
        return wanted
    raise ConfigurationError(
        f"`camera` of the MuJoCo renderer asks for the {kind} {wanted!r}, which the model doesn't "
        f"have; it has {names!r}"
    )


def _unknown(option: str, got: object, known: Any) -> ConfigurationError:
    return ConfigurationError(
        f"`{option}` of the MuJoCo renderer must be of {', '.join(map(repr, known))}; got {got!r}"
    )
