from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex.demo.cartpole import CartPole, CartPoleState

ENV = CartPole()
KEY = jax.random.key(0)
LIMIT = 12 * 2 * np.pi / 360


def make(numbers, time=0) -> CartPoleState:
    return CartPoleState(*(jnp.float32(n) for n in numbers), time=jnp.int32(time))


def numbers(state) -> np.ndarray:
    return np.asarray(ENV.observation(state, key=KEY), np.float64)


def step_in_float64(numbers, action: int) -> np.ndarray:
    """One Euler step; the accelerations solve the two equations of motion of cart and pole.

    They are those of a cart of 1 kg with a uniform rod of 0.1 kg and 1 m (Lagrange), not the
    expressions into which the environment has solved them.
    """
    x, v, a, w = np.asarray(numbers, np.float64)
    cart, pole, half, g = 1.0, 0.1, 0.5, 9.8
    force = 10.0 if action else -10.0
    mass = np.array(
        [
            [cart + pole, pole * half * np.cos(a)],
            [pole * half * np.cos(a), 4 / 3 * pole * half**2],
        ]
    )
    push = np.array([force + pole * half * w**2 * np.sin(a), pole * half * g * np.sin(a)])
    acceleration, angular = np.linalg.solve(mass, push)
    return np.array([x + 0.02 * v, v + 0.02 * acceleration, a + 0.02 * w, w + 0.02 * angular])


small = st.floats(-1, 1, width=32)


@settings(max_examples=50, deadline=None)
@given(st.tuples(small, small, small, small), st.integers(0, 1))
def test_a_step_solves_the_equations_of_motion(start, action):
    start = np.array(start) * [2.4, 3.0, 1.5, 4.0]
    after = ENV.transition(make(start), jnp.int32(action), key=KEY)
    np.testing.assert_allclose(numbers(after), step_in_float64(start, action), atol=3e-6)


@pytest.mark.parametrize(
    ("start", "action", "after"),
    [
        (
            [0.01823519, -0.0446179, -0.02796401, -0.03156282],
            1,
            [0.01734283, 0.15089367, -0.02859527, -0.33293587],
        ),
        (
            [0.02852531, 0.02858594, 0.0469136, 0.02480598],
            0,
            [0.02909703, -0.16717631, 0.04740972, 0.3319138],
        ),
        (
            [0.03517495, -0.000635, -0.01098382, -0.03203924],
            0,
            [0.03516225, -0.19559774, -0.01162461, 0.25715804],
        ),
    ],
)
def test_a_step_is_that_of_gymnasium(start, action, after):
    # the figures are printed in the documentation of Gymnasium's vector wrappers (seed 123)
    state = ENV.transition(make(start), jnp.int32(action), key=KEY)
    np.testing.assert_allclose(numbers(state), after, atol=1e-7)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_a_trajectory_is_the_same_eager_jitted_and_vmapped(transform):
    step = transform(lambda s, a: ENV.transition(s, a, key=KEY))
    batched = transform is jax.vmap
    actions = [1, 1, 0, 1, 0, 0, 0, 1, 1, 0]
    start = expected = np.array([0.01, -0.02, 0.03, 0.04])
    state = make(start)
    if batched:
        state = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    for action in actions:
        state = step(state, jnp.full(2, action) if batched else jnp.int32(action))
        expected = step_in_float64(expected, action)
    for one in range(2) if batched else [...]:
        got = jax.tree.map(lambda x, i=one: x[i], state)
        np.testing.assert_allclose(numbers(got), expected, atol=1e-5)
        assert int(got.time) == len(actions)


def test_episodes_start_near_upright_rest_and_differ():
    states = jax.jit(jax.vmap(lambda k: ENV.initial(key=k)))(jax.random.split(KEY, 1000))
    drawn = np.stack([states.position, states.velocity, states.angle, states.angular_velocity])
    assert drawn.dtype == np.float32
    assert drawn.min() >= -0.05
    assert drawn.max() < 0.05
    np.testing.assert_allclose(drawn.mean(axis=1), 0, atol=0.005)  # deviates by 0.0009
    np.testing.assert_allclose(drawn.std(axis=1), 0.1 / np.sqrt(12), rtol=0.05)
    assert len(np.unique(drawn)) > 3900
    assert not states.time.any()


@pytest.mark.parametrize(
    ("position", "angle", "ends"),
    [
        (0.0, 0.0, False),
        (2.4, 0.0, False),
        (-2.4, 0.0, False),
        (np.nextafter(np.float32(2.4), np.float32(3)), 0.0, True),
        (-2.41, 0.0, True),
        (0.0, LIMIT, False),
        (0.0, -LIMIT, False),
        (0.0, LIMIT + 1e-6, True),
        (0.0, -LIMIT - 1e-6, True),
        (3.0, 1.0, True),
    ],
)
def test_an_episode_ends_off_the_track_or_beyond_12_degrees(position, angle, ends):
    assert bool(ENV.terminal(make([position, 0.0, angle, 0.0]), key=KEY)) is ends


@pytest.mark.parametrize(("time", "cut"), [(0, False), (499, False), (500, True), (501, True)])
def test_an_episode_is_truncated_at_500_steps(time, cut):
    assert bool(ENV.truncate(make([0.0] * 4, time))) is cut
    assert not ENV.terminal(make([0.0] * 4, time), key=KEY)


def test_every_step_earns_one_also_the_last():
    upright, fallen = make([0.0] * 4), make([9.0] * 4)
    for after in (upright, fallen):
        reward = ENV.reward(upright, jnp.int32(0), after, key=KEY)
        assert reward.dtype == jnp.float32
        assert float(reward) == 1.0


def test_it_says_what_the_protocol_asks():
    assert ENV.name == "CartPole"
    assert ENV.unwrapped is ENV
    assert ENV.num_actions == 2
    assert ENV.action_mask(ENV.initial(key=KEY), key=KEY) is None
    assert hash(ENV) == hash(CartPole())


@final
@dataclass
class Recorder:
    """A renderer that keeps the calls."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def clear(self):
        self.calls.append(("clear", {}))

    def draw_circle(self, center, radius, color):
        self.calls.append(("circle", {"center": center, "radius": radius, "color": color}))

    def draw_line(self, start, end, color, width):
        self.calls.append(("line", {"start": start, "end": end, "color": color, "width": width}))

    def draw_rect(self, center, w, h, color):
        self.calls.append(("rect", {"center": center, "w": w, "h": h, "color": color}))

    def draw_polygon(self, points, color):
        self.calls.append(("polygon", {"points": points, "color": color}))

    def draw_text(self, center, text, color, size):
        self.calls.append(("text", {"center": center, "text": text, "color": color, "size": size}))

    def draw(self):
        self.calls.append(("draw", {}))

    def of(self, name):
        return [arguments for called, arguments in self.calls if called == name]


def draw(position, angle, time=0) -> Recorder:
    recorder = Recorder()
    ENV.render(make([position, 0.7, angle, 0.3], time), recorder)
    return recorder


@pytest.mark.parametrize(
    ("position", "angle", "tip"),
    [
        (0.0, 0.0, (0.0, 1.25)),
        (1.25, np.pi / 2, (2.25, 0.25)),
        (-0.5, -np.pi / 6, (-1.0, 0.25 + np.sqrt(3) / 2)),
    ],
)
def test_it_draws_track_cart_pole_and_hinge(position, angle, tip):
    picture = draw(position, angle)
    names = [name for name, _ in picture.calls]
    assert (names[0], names[-1]) == ("clear", "draw")
    track, *marks, pole = picture.of("line")
    assert (track["start"], track["end"]) == ((-2.4, 0.0), (2.4, 0.0))
    assert [mark["end"] for mark in marks] == [(-2.4, 0.0), (0.0, 0.0), (2.4, 0.0)]
    *wheels, hinge = picture.of("circle")
    cart = picture.of("rect")[0]
    assert cart["center"][0] == pytest.approx(position)
    assert cart["center"][1] + cart["h"] / 2 == pytest.approx(hinge["center"][1])
    assert np.mean([wheel["center"][0] for wheel in wheels]) == pytest.approx(position)
    assert hinge["center"] == pole["start"] == pytest.approx((position, 0.25))
    assert pole["end"] == pytest.approx(tip)
    for _, arguments in picture.calls[1:-1]:
        assert all(0 <= part <= 1 for part in arguments["color"])
    assert len({cart["color"], pole["color"], hinge["color"]}) == 3


def test_the_sector_ends_where_the_episode_does_and_gets_redder():
    (upright,), (leaning,), (fallen,) = (draw(1, a).of("polygon") for a in (0, -LIMIT / 2, 1))
    hinge, *rim = np.array(upright["points"])
    sideways, up = (rim - hinge).T
    np.testing.assert_allclose(np.arctan2(sideways, up)[[0, -1]], [-LIMIT, LIMIT], rtol=1e-6)
    np.testing.assert_allclose(np.hypot(sideways, up), 1.25)
    redness = [np.subtract(*sector["color"][:2]) for sector in (upright, leaning, fallen)]
    assert redness == sorted(redness)
    assert redness[0] < 0 < redness[2]


@pytest.mark.parametrize(("time", "share"), [(0, 0), (125, 0.25), (500, 1)])
def test_the_bar_shows_how_much_of_the_episode_is_over(time, share):
    picture = draw(0, 0, time)
    _, whole, over = picture.of("rect")
    assert over["w"] == pytest.approx(share * whole["w"])
    assert over["center"][0] - over["w"] / 2 == pytest.approx(-whole["w"] / 2)
    (text,) = picture.of("text")
    assert text["text"] == f"step {time} of 500"


def test_everything_it_draws_lies_in_the_picture():
    viewport = ENV.default_renderer()
    assert (viewport.width, viewport.height) == (640, 480)
    assert viewport.transform.y_up
    for position in (-2.4, 2.4):
        for height in (-0.95, 1.25 + 0.25):
            right, down = viewport.transform.to_pixels((position, height))
            assert 0 < right < viewport.width
            assert 0 < down < viewport.height
    assert viewport.transform.to_pixels((0.0, 1.0))[1] < viewport.transform.to_pixels((0.0, 0.0))[1]
