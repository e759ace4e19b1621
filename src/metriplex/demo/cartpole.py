"""CartPole in pure JAX: balance a pole on a cart by pushing the cart left or right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, radians, sin
from typing import Any, ClassVar, TypeAlias, final

import jax
import jax.numpy as jnp

from metriplex.plugins.viewport import Viewport

Color: TypeAlias = tuple[float, float, float]
"""Red, green and blue, each in [0, 1]."""

PAPER: Color = (0.97, 0.97, 0.98)
STEEL: Color = (0.62, 0.66, 0.71)
SLATE: Color = (0.18, 0.23, 0.32)
WOOD: Color = (0.85, 0.56, 0.30)
CALM: Color = (0.88, 0.93, 0.91)
ALARM: Color = (0.97, 0.76, 0.72)


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class CartPoleState:
    """State of cart and pole: float32 scalars, and the number of steps."""

    position: jax.Array  # of the cart on the track, m; 0 is the middle
    velocity: jax.Array  # of the cart, m/s
    angle: jax.Array  # of the pole from the vertical, rad, positive to the right
    angular_velocity: jax.Array  # of the pole, rad/s
    time: jax.Array  # steps since the episode began, int32


@final
@dataclass(frozen=True, slots=True)
class CartPole:
    """Balance a pole on a cart; every step earns 1.

    The dynamics are those of Barto, Sutton and Anderson (1983) without friction, with the
    constants, the explicit Euler integration and the limits of Gymnasium's CartPole-v1. Action 0
    pushes to the left, 1 to the right. An episode terminates when the cart leaves the track or the
    pole leans too far, and is truncated after `max_steps`.

    References:
        Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning
        control problems", IEEE Transactions on Systems, Man, and Cybernetics (1983).
    """

    name: ClassVar[str] = "CartPole"
    num_actions: ClassVar[int] = 2

    gravity: float = 9.8  # m/s²
    cart_mass: float = 1.0  # kg
    pole_mass: float = 0.1  # kg
    half_length: float = 0.5  # of the pole, m
    force: float = 10.0  # of a push, N
    time_step: float = 0.02  # of the integration, s
    position_limit: float = 2.4  # distance from the middle beyond which the episode ends, m
    angle_limit: float = radians(12.0)  # angle of the pole beyond which the episode ends, rad
    max_steps: int = 500  # after which an episode is truncated

    @property
    def unwrapped(self) -> CartPole:
        """The environment itself."""
        return self

    def initial(self, *, key: jax.Array) -> CartPoleState:
        """Draw all four numbers uniformly from [-0.05, 0.05)."""
        numbers = jax.random.uniform(key, (4,), jnp.float32, minval=-0.05, maxval=0.05)
        return CartPoleState(*numbers, time=jnp.int32(0))

    def transition(
        self, state: CartPoleState, action: jax.Array, *, key: jax.Array | None = None
    ) -> CartPoleState:
        """Push the cart for one time step.

        With the total mass M, the pole's mass m and half-length l, the accelerations solve

            M x'' + m l (θ'' cos θ - θ'² sin θ) = F
            4/3 l θ'' + x'' cos θ = g sin θ
        """
        del key
        total_mass = self.cart_mass + self.pole_mass
        moment = self.pole_mass * self.half_length
        sine, cosine = jnp.sin(state.angle), jnp.cos(state.angle)

        push = jnp.where(action == 1, self.force, -self.force)
        drive = (push + moment * state.angular_velocity**2 * sine) / total_mass
        inertia = self.half_length * (4.0 / 3.0 - self.pole_mass * cosine**2 / total_mass)
        angular_acceleration = (self.gravity * sine - cosine * drive) / inertia
        acceleration = drive - moment * angular_acceleration * cosine / total_mass

        return replace(
            state,
            position=state.position + self.time_step * state.velocity,
            velocity=state.velocity + self.time_step * acceleration,
            angle=state.angle + self.time_step * state.angular_velocity,
            angular_velocity=state.angular_velocity + self.time_step * angular_acceleration,
            time=state.time + 1,
        )

    def observation(self, state: CartPoleState, *, key: jax.Array | None = None) -> jax.Array:
        """Return position, velocity, angle and angular velocity, float32 `[4]`."""
        del key
        return jnp.stack([state.position, state.velocity, state.angle, state.angular_velocity])

    def action_mask(self, state: CartPoleState, *, key: jax.Array | None = None) -> None:
        """Return None: both actions are always allowed."""
        del state, key

    def reward(
        self,
        state: CartPoleState,
        action: jax.Array,
        next_state: CartPoleState,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Return 1 for every step, the last step of an episode included."""
        del state, action, next_state, key
        return jnp.float32(1.0)

    def terminal(self, state: CartPoleState, *, key: jax.Array | None = None) -> jax.Array:
        """Return True if the cart has left the track or the pole leans too far."""
        del key
        off_track = jnp.abs(state.position) > self.position_limit
        return off_track | (jnp.abs(state.angle) > self.angle_limit)

    def truncate(self, state: CartPoleState) -> jax.Array:
        """Return True if the episode has lasted `max_steps`."""
        return state.time >= self.max_steps

    def default_renderer(self) -> Viewport:
        """Return a view of the track and its surroundings: 640 x 480 pixels, 120 pixels a metre."""
        return Viewport(640, 480, scale=120.0, offset=(320.0, 168.0), background_color=PAPER)

    def render(self, state: CartPoleState, renderer: Any) -> None:
        """Draw the track at height 0, the cart on the track, and the pole.

        A sector behind the pole shows the allowed angles, and gets redder with the pole's angle. A
        bar below the track shows the share of `max_steps` that is over.
        """
        x, angle, length = float(state.position), float(state.angle), 2.0 * self.half_length
        limit, time = self.position_limit, int(state.time)
        hinge = (x, 0.25)

        def along_pole(angle: float, distance: float) -> tuple[float, float]:
            return hinge[0] + distance * sin(angle), hinge[1] + distance * cos(angle)

        leans = [self.angle_limit * step / 8 for step in range(-8, 9)]
        sector = [hinge, *(along_pole(lean, 1.25 * length) for lean in leans)]
        danger = min(abs(angle) / self.angle_limit, 1.0)

        renderer.clear()
        renderer.draw_polygon(points=sector, color=_mix(CALM, ALARM, danger))
        renderer.draw_line(start=(-limit, 0.0), end=(limit, 0.0), color=STEEL, width=0.03)
        for mark, height in ((-limit, 0.12), (0.0, 0.06), (limit, 0.12)):
            renderer.draw_line(start=(mark, -height), end=(mark, 0.0), color=STEEL, width=0.03)
        for wheel in (x - 0.13, x + 0.13):
            renderer.draw_circle(center=(wheel, 0.065), radius=0.05, color=STEEL)
        renderer.draw_rect(center=(x, 0.17), w=0.44, h=0.16, color=SLATE)
        renderer.draw_line(start=hinge, end=along_pole(angle, length), color=WOOD, width=0.07)
        renderer.draw_circle(center=hinge, radius=0.022, color=PAPER)

        share = 2 * limit * min(time / self.max_steps, 1.0)
        renderer.draw_rect(center=(0.0, -0.6), w=2 * limit, h=0.06, color=_mix(PAPER, STEEL, 0.3))
        renderer.draw_rect(center=(share / 2 - limit, -0.6), w=share, h=0.06, color=SLATE)
        text = f"step {time} of {self.max_steps}"
        renderer.draw_text(center=(0.0, -0.85), text=text, color=SLATE, size=18.0)
        renderer.draw()


def _mix(one: Color, other: Color, share: float) -> Color:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(one, other, strict=True))
    return red, green, blue
