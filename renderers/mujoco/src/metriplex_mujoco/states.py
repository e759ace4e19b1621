"""Find the simulation in an environment's state, and select the arrays that drawing needs."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import numpy as np

from metriplex_mujoco.errors import DrawingError

_HOLDERS = ("sim_state", "data", "pipeline_state")


@final
@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and shapes of the simulation's arrays that drawing needs."""

    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of_model(cls, model: Any, *, forces: bool) -> Layout:
        """Return the layout of a `mujoco.MjModel`; `forces` adds velocities and controls."""
        shapes = {
            "mocap_pos": (int(model.nmocap), 3),
            "mocap_quat": (int(model.nmocap), 4),
            "act": (int(model.na),),  # the colour of muscles
        }
        if forces:
            shapes |= {"qvel": (int(model.nv),), "ctrl": (int(model.nu),)}
        present = {name: shape for name, shape in shapes.items() if 0 not in shape}
        return cls({"qpos": (int(model.nq),), **present})

    def select(self, state: Any) -> dict[str, Any]:
        """Select the arrays of a state, which may be traced.

        The model provides arrays other than `qpos` that the state doesn't have. Raise
        `DrawingError` if the state has no simulation, or a simulation of another model.
        """
        simulation = find_simulation(state)
        selected = {
            name: getattr(simulation, name)
            for name in self.shapes
            if getattr(simulation, name, None) is not None
        }
        for name, value in selected.items():
            self._check_shape(name, np.shape(value))
        return selected

    def check(self, selected: Any) -> dict[str, np.ndarray]:
        """Return the result of `select` as float64 arrays, after a check of shapes and values.

        Raise `DrawingError` if an array is missing, has a wrong shape, or is not finite.
        """
        if not isinstance(selected, dict) or not {"qpos"} <= set(selected) <= set(self.shapes):
            got = sorted(selected) if isinstance(selected, dict) else type(selected).__name__
            raise DrawingError(
                f"`render` takes what `select` of the same renderer gives, a dict of "
                f"{sorted(self.shapes)}; got {got}"
            )
        arrays: dict[str, np.ndarray] = {}
        for name, value in selected.items():
            try:
                array = np.asarray(value, np.float64)
            except (TypeError, ValueError) as error:
                raise DrawingError(f"`{name}` holds no numbers: {error}") from error
            self._check_shape(name, array.shape)
            wrong = np.argwhere(~np.isfinite(array))
            if len(wrong):
                index = tuple(int(i) for i in wrong[0])
                raise DrawingError(
                    f"`{name}[{', '.join(map(str, index))}]` is {array[index]}, so the state can't "
                    f"be drawn ({len(wrong)} of {array.size} values are not finite): the "
                    f"simulation has diverged"
                )
            arrays[name] = array
        return arrays

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if shape != self.shapes[name]:
            advice = (
                "give one state, not a batch of them"
                if shape[1:] == self.shapes[name]
                else "the state is of another model than the renderer"
            )
            raise DrawingError(
                f"`{name}` must have the shape {list(self.shapes[name])}; got {list(shape)}: "
                f"{advice}"
            )


def find_simulation(state: Any) -> Any:
    """Return the simulation's data in an environment's state: an object with `qpos`.

    The search order is: the state itself; its `unwrapped`, and the attributes `sim_state`, `data`
    and `pipeline_state` of that; the same attributes of the state itself. Raise `DrawingError` if
    there is no simulation.
    """
    if hasattr(state, "qpos"):
        return state
    for holder in (getattr(state, "unwrapped", None), state):
        for found in (holder, *(getattr(holder, name, None) for name in _HOLDERS)):
            if hasattr(found, "qpos"):
                return found
    places = ", ".join(f"`.unwrapped.{name}`, `.{name}`" for name in _HOLDERS)
    raise DrawingError(
        f"no simulation was found in a state of type `{type(state).__qualname__}`: expected "
        f"`.qpos`, in the state itself or in {places}"
    )
