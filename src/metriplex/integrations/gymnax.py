"""Draw gymnax environments in evaluation videos, without matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np

from metriplex.integrations import pictures

if TYPE_CHECKING:
    from metriplex.integrations.pictures import Picture

_TRACK = ("min_position", "max_position", "goal_position")
_SHOWN = {
    "CartPole-v1": (pictures.CartPole, ("x_threshold", "length"), ("x", "theta")),
    "MountainCar-v0": (pictures.MountainCar, _TRACK, ("position",)),
    "ContinuousMountainCar-v0": (pictures.MountainCar, _TRACK, ("position",)),
    "MountainCarContinuous-v0": (pictures.MountainCar, _TRACK, ("position",)),
    "Pendulum-v1": (pictures.Pendulum, ("l",), ("theta",)),
    "Acrobot-v1": (
        pictures.Acrobot,
        ("link_length_1", "link_length_2"),
        ("joint_angle1", "joint_angle2"),
    ),
}
"""Environment name to its picture, the parameters of the picture, and the state fields it shows."""


@final
class GymnaxEnvironment:
    """A gymnax environment for videos, of gymnax 0.0.x or 1.x, wrapped or not.

        env, params = gymnax.make("Breakout-MinAtar")
        metrics = MetricsCallback(env=GymnaxEnvironment(env, params), video_interval=50)

    Classic-control environments have their usual pictures. Environments with a grid as observation
    (MinAtar, Catch, DeepSea, ...) are drawn as that grid, with one colour per channel. Other
    environments need `renderer=` to be drawn. Pickling keeps only the parts that draw.

    Args:
        env: The environment.
        params: Parameters of the environment; None for the default ones.

    Attributes:
        name: Name of the environment.
    """

    def __init__(self, env: Any, params: Any = None) -> None:
        self.name: str = env.name
        self._env = env
        self._params = env.default_params if params is None else params
        self._fields: tuple[str, ...] = ()
        picture = self._picture()
        if picture is not None:
            self.default_renderer = picture.default_renderer
            self.render = picture.render

    def initial(self, *, key: Any) -> Any:
        """Return the first state of an episode."""
        return self._env.reset_env(key, self._params)[1]

    def transition(self, state: Any, action: Any, *, key: Any) -> Any:
        """Return the next state."""
        return self._env.step_env(key, state, action, self._params)[1]

    def observation(self, state: Any, *, key: Any) -> Any:
        """Return the observation of the policy."""
        if hasattr(self._env, "observe"):  # gymnax 1
            return self._env.observe(key, state, None, self._params)
        return self._env.get_obs(state, params=self._params, key=key)

    def terminal(self, state: Any, *, key: Any) -> jax.Array:  # noqa: ARG002 - part of the protocol
        """Return True if the episode has terminated or reached the step limit; bool `[]`."""
        return jnp.asarray(self._env.is_terminal(state, self._params), bool)

    def truncate(self, state: Any) -> jax.Array:
        """Return True if the step limit is reached; bool `[]`, always False before gymnax 1."""
        truncated = getattr(self._env, "is_truncated", None)
        return jnp.asarray(False if truncated is None else truncated(state, self._params), bool)

    def to_draw(self, state: Any) -> Any:
        """Return the part of a state that is drawn: some of its fields, or the grid.

        Returns:
            Name to array `[]`, or a grid, uint8 `[rows, columns]`: 0 for an empty cell, else the
            number of its last channel that is not zero, from 1.
        """
        if self._fields:
            return {name: getattr(state, name) for name in self._fields}
        grid = jnp.asarray(self.observation(state, key=jax.random.key(0))) != 0
        channels = grid[..., None] if grid.ndim == 2 else grid
        numbers = jnp.arange(1, channels.shape[-1] + 1, dtype=jnp.uint8)
        return jnp.max(channels * numbers, axis=-1)

    def _picture(self) -> Picture | None:
        if self.name in _SHOWN:
            kind, parameters, self._fields = _SHOWN[self.name]
            return kind(*(float(np.asarray(getattr(self._params, name))) for name in parameters))
        key = jax.random.key(0)
        observation: Any = jax.eval_shape(lambda: self.observation(self.initial(key=key), key=key))
        shape: Any = getattr(observation, "shape", ())
        is_grid = len(shape) in {2, 3} and max(shape[:2]) > 1
        return pictures.Cells(*shape[:2]) if is_grid else None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_env": None, "_params": None}
