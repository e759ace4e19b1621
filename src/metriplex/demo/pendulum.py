"""A pendulum on a cart, simulated by MuJoCo MJX: swing the pendulum up and balance it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from math import pi
from typing import Any, final

import jax
import jax.numpy as jnp

from metriplex.errors import ConfigurationError

MODEL = """
<mujoco model="pendulum">
  <option timestep="0.02" integrator="implicitfast">
    <flag contact="disable" constraint="disable"/>
  </option>
  <default>
    <geom contype="0" conaffinity="0"/>
  </default>
  <visual>
    <headlight ambient=".45 .45 .48" diffuse=".25 .25 .25" specular="0 0 0"/>
    <rgba haze=".93 .95 .98 1"/>
    <map haze=".25" zfar="40"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".93 .95 .98" rgb2=".62 .73 .87"
             width="64" height="384"/>
    <texture name="tiles" type="2d" builtin="checker" rgb1=".80 .83 .88" rgb2=".72 .76 .82"
             width="256" height="256"/>
    <material name="tiles" texture="tiles" texrepeat="2 2" texuniform="true" specular="0"/>
    <material name="steel" rgba=".60 .64 .70 1" specular=".6" shininess=".7"/>
    <material name="slate" rgba=".17 .23 .34 1" specular=".4" shininess=".4"/>
    <material name="wood" rgba=".88 .55 .25 1" specular=".3" shininess=".3"/>
    <material name="red" rgba=".83 .23 .20 1" specular=".7" shininess=".7"/>
    <material name="shade" rgba=".1 .12 .2 .25" specular="0"/>
  </asset>
  <worldbody>
    <light type="directional" pos="0 0 4" dir=".3 .5 -.8" diffuse=".6 .6 .57" specular=".4 .4 .4"/>
    <camera name="track" pos="0 -3.3 1.75" xyaxes="1 0 0 0 .27 1" fovy="45"/>
    <geom name="floor" type="plane" size="40 40 .1" material="tiles"/>
    <geom name="rail" type="capsule" fromto="-1.7 0 .9 1.7 0 .9" size=".018" material="steel"/>
    <geom name="left post" type="cylinder" fromto="-1.7 0 0 -1.7 0 .93" size=".03"
          material="steel"/>
    <geom name="right post" type="cylinder" fromto="1.7 0 0 1.7 0 .93" size=".03"
          material="steel"/>
    <geom name="left stop" type="cylinder" fromto="-1.67 0 .9 -1.65 0 .9" size=".05"
          material="red"/>
    <geom name="right stop" type="cylinder" fromto="1.65 0 .9 1.67 0 .9" size=".05"
          material="red"/>
    <geom name="middle" type="cylinder" fromto="-.008 0 .9 .008 0 .9" size=".026"
          material="slate"/>
    <geom name="rail's shade" type="box" pos="0 0 .001" size="1.7 .015 .001" material="shade"/>
    <body name="cart" pos="0 0 .9">
      <joint name="slide" type="slide" axis="1 0 0" damping=".2"/>
      <geom name="cart" type="box" size=".16 .07 .07" mass="1" material="slate"/>
      <geom name="cart's shade" type="box" pos="0 0 -.897" size=".16 .07 .001" mass="0"
            material="shade"/>
      <body name="pole" pos="0 -.1 0">
        <joint name="hinge" type="hinge" axis="0 1 0" damping=".002"/>
        <geom name="hinge" type="cylinder" fromto="0 -.02 0 0 .04 0" size=".03" mass="0"
              material="steel"/>
        <geom name="rod" type="capsule" fromto="0 0 0 0 0 .6" size=".016" mass=".05"
              material="wood"/>
        <geom name="bob" type="sphere" pos="0 0 .6" size=".055" mass=".15" material="red"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="push" joint="slide" gear="10" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

FORCES = (-1.0, -0.5, -0.15, 0.0, 0.15, 0.5, 1.0)
"""Control of each action; 1 is a force of 10 N to the right."""


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class PendulumState:
    """State of the simulation."""

    sim_state: Any
    """`mjx.Data`: `qpos` is the cart's position on the rail, m, and the pendulum's angle from
    upright, rad; `qvel` holds their derivatives."""

    time: jax.Array  # steps since the episode began, int32

    @property
    def unwrapped(self) -> PendulumState:
        """The state itself."""
        return self


@final
class Pendulum:
    """Swing up and balance a pendulum by pushing the cart from which it hangs.

    The reward of a step is between 0 (hanging) and 1 (upright, with the cart in the middle of the
    rail). An episode terminates when the cart reaches an end of the rail, and is truncated after
    `max_steps`. The constructor raises `ConfigurationError` if MuJoCo or MJX is not installed.
    """

    name = "Pendulum"
    num_actions = len(FORCES)
    position_limit = 1.5
    max_steps = 500

    def __init__(self) -> None:
        self._mjx, mujoco = _import_mjx()
        self.mujoco_model: Any = mujoco.MjModel.from_xml_string(MODEL)
        self._model = self._mjx.put_model(self.mujoco_model)

    @property
    def unwrapped(self) -> Pendulum:
        """The environment itself; the MuJoCo renderer draws its `mujoco_model`."""
        return self

    def initial(self, *, key: jax.Array) -> PendulumState:
        """Return a hanging pendulum in the middle, with noise of up to 0.1 on all four numbers."""
        off = jax.random.uniform(key, (2, 2), jnp.float32, minval=-0.1, maxval=0.1)
        hanging = jnp.array([0.0, pi], jnp.float32)
        data = self._mjx.make_data(self._model).replace(qpos=hanging + off[0], qvel=off[1])
        return PendulumState(data, jnp.int32(0))

    def transition(
        self, state: PendulumState, action: jax.Array, *, key: jax.Array | None = None
    ) -> PendulumState:
        """Push the cart for one step of the simulation, 20 ms, with the force `FORCES[action]`."""
        del key
        control = jnp.array(FORCES, jnp.float32)[action]
        data = self._mjx.step(self._model, state.sim_state.replace(ctrl=control[None]))
        return PendulumState(data, state.time + 1)

    def observation(self, state: PendulumState, *, key: jax.Array | None = None) -> jax.Array:
        """Return the state without the time, scaled to values of about 1.

        The result, float32 `[5]`, is the position, the cosine and the sine of the angle, the
        velocity, and a quarter of the angular velocity.
        """
        del key
        (position, angle), (velocity, spin) = state.sim_state.qpos, state.sim_state.qvel
        return jnp.stack([position, jnp.cos(angle), jnp.sin(angle), velocity, spin / 4])

    def action_mask(self, state: PendulumState, *, key: jax.Array | None = None) -> None:
        """Return None: all actions are always allowed."""
        del state, key

    def reward(
        self,
        state: PendulumState,
        action: jax.Array,
        next_state: PendulumState,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Return `(1 + cos θ)/2 · (1 - (x/l)²/2)`, a number in [0, 1].

        θ is the angle from upright, x the cart's position and l its limit, all after the step.
        """
        del state, action, key
        position, angle = next_state.sim_state.qpos
        centred = 1 - 0.5 * jnp.minimum(jnp.square(position / self.position_limit), 1.0)
        return (1 + jnp.cos(angle)) / 2 * centred

    def terminal(self, state: PendulumState, *, key: jax.Array | None = None) -> jax.Array:
        """Return True if the cart is at an end of the rail."""
        del key
        return jnp.abs(state.sim_state.qpos[0]) > self.position_limit

    def truncate(self, state: PendulumState) -> jax.Array:
        """Return True if the episode has lasted `max_steps`."""
        return state.time >= self.max_steps


def _import_mjx() -> tuple[Any, Any]:
    """Import `mujoco.mjx` and `mujoco`; discard the output of MJX about a missing Warp."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import mujoco
            from mujoco import mjx
    except ImportError as error:
        raise ConfigurationError(
            f"the pendulum is simulated by MuJoCo MJX, which can't be imported ({error}). To "
            f"install it: `pip install metriplex-mujoco mujoco-mjx`"
        ) from error
    return mjx, mujoco
