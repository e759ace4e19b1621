"""Environments of the callback pattern, adapted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from metriplex.demo.cartpole import CartPole
from metriplex.video.play.environments import PatternEnvironment
from video.cases import Line

KEY = jax.random.key(1)


class Bare:
    """No `truncate`, no `action_mask`."""

    def initial(self, *, key: Any) -> int:
        return 0

    def transition(self, state: int, action: int, *, key: Any) -> int:
        return state + action

    def observation(self, state: int, *, key: Any) -> int:
        return -state

    def terminal(self, state: int, *, key: Any) -> bool:
        return state >= 3


def test_methods_are_passed_on() -> None:
    env = PatternEnvironment(Bare())
    assert env.reset(KEY) == 0
    assert env.observe(2, KEY) == -2
    assert env.action_mask(2, KEY) is None
    state, done = env.step(1, 1, KEY)
    assert (state, bool(done)) == (2, False)
    state, done = env.step(1, 2, KEY)
    assert (state, bool(done)) == (3, True)


def test_done_is_one_bool() -> None:
    done = PatternEnvironment(Bare()).step(1, 1, KEY)[1]
    assert done.shape == ()
    assert done.dtype == bool


def test_either_end_ends_the_episode() -> None:
    env = PatternEnvironment(Line(limit=1))
    state = env.reset(KEY)
    assert bool(env.step(state, jnp.float32(0), KEY)[1])  # truncated
    assert bool(env.step(state, jnp.float32(9), KEY)[1])  # terminal as well
    assert bool(PatternEnvironment(Line()).step(state, jnp.float32(9), KEY)[1])
    assert not bool(PatternEnvironment(Line()).step(state, jnp.float32(0), KEY)[1])


def test_a_mask_is_passed_on() -> None:
    class Masked(Bare):
        def action_mask(self, state: int, *, key: Any) -> list[bool]:
            return [state > 0, True]

    assert PatternEnvironment(Masked()).action_mask(0, KEY) == [False, True]


@pytest.mark.parametrize("env", [Line(), CartPole(), Bare()])
def test_who_has_the_methods_is_accepted(env: object) -> None:
    assert PatternEnvironment.accepts(env)
    assert PatternEnvironment(env).traceable


@pytest.mark.parametrize("missing", ["initial", "transition", "observation", "terminal"])
def test_who_lacks_one_is_not(missing: str) -> None:
    methods = {"initial": max, "transition": max, "observation": max, "terminal": max}
    assert PatternEnvironment.accepts(SimpleNamespace(**methods))
    assert not PatternEnvironment.accepts(SimpleNamespace(**{**methods, missing: None}))


def test_an_environment_may_say_that_it_cannot_be_traced() -> None:
    class Python(Bare):
        traceable = False

    assert not PatternEnvironment(Python()).traceable
