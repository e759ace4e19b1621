"""Policies of every shape are called as they want to be."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from metriplex.video.play.policies import adapt_policy

KEY = jax.random.key(7)
OBSERVATION = jnp.array([1.0, 2.0])
MASK = jnp.array([True, False])


def act(policy: Any, state: Any = None, mask: Any = MASK) -> tuple[Any, Any]:
    return adapt_policy(policy).act(state, OBSERVATION, KEY, mask)


class Net(eqx.Module):
    weight: jax.Array

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return x * self.weight + (0 if key is None else jax.random.uniform(key))


class Recurrent:
    """The callback pattern's protocol."""

    def reset(self, *, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key)

    def __call__(
        self, state: Any, observation: Any, *, key: Any = None, action_mask: Any = None
    ) -> tuple[Any, Any]:
        return state + 1, (observation, key, action_mask)


class Keyless:
    def reset(self) -> int:
        return 3

    def __call__(self, state: int, observation: Any) -> tuple[int, Any]:
        return state + 1, observation


def test_a_policy_of_the_callback_pattern_has_a_state() -> None:
    actor = adapt_policy(Recurrent())
    assert actor.reset(KEY) == jax.random.uniform(KEY)
    state, (observation, key, mask) = actor.act(jnp.float32(1), OBSERVATION, KEY, MASK)
    assert state == 2
    assert observation is OBSERVATION
    assert key is KEY
    assert mask is MASK


def test_without_a_mask_the_policy_s_default_holds() -> None:
    assert act(Recurrent(), jnp.float32(0), mask=None)[1][2] is None


def test_a_policy_with_a_state_needs_neither_keys_nor_masks() -> None:
    actor = adapt_policy(Keyless())
    assert actor.reset(KEY) == 3
    assert actor.act(3, OBSERVATION, KEY, MASK) == (4, OBSERVATION)


def test_a_function_of_the_observation_is_enough() -> None:
    scale = jnp.float32(2)  # a closure
    assert adapt_policy(lambda observation: observation).reset(KEY) is None
    state, action = act(lambda observation: observation * scale)
    assert state is None
    assert action.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("name", ["key", "rng", "rng_key", "prng_key", "seed"])
def test_a_key_goes_to_a_parameter_of_any_usual_name(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def policy(observation, {name}):\n return {name}", namespace)
    assert act(namespace["policy"])[1] is KEY


@pytest.mark.parametrize("name", ["mask", "action_mask"])
def test_a_mask_goes_to_a_parameter_of_either_name(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def policy(observation, *, {name}=None):\n return {name}", namespace)
    assert act(namespace["policy"])[1] is MASK
    assert act(namespace["policy"], mask=None)[1] is None


def test_an_equinox_module_gets_the_key_it_has_a_parameter_for() -> None:
    _, action = act(Net(jnp.float32(3)))
    assert action.tolist() == (OBSERVATION * 3 + jax.random.uniform(KEY)).tolist()


def test_parameters_bound_by_partial_stay_bound() -> None:
    def apply(params: Any, x: jax.Array, *, rng: Any) -> tuple[Any, Any]:
        return params["w"] * x, rng

    for bind in (functools.partial, jax.tree_util.Partial):
        _, (action, key) = act(bind(apply, {"w": jnp.float32(2)}))
        assert action.tolist() == [2.0, 4.0]
        assert key is KEY


def test_whoever_takes_any_keyword_is_given_the_key_alone() -> None:
    def policy(observation: Any, **rest: Any) -> Any:
        return rest

    assert act(policy)[1] == {"key": KEY}


def test_a_parameter_that_has_no_name_to_callers_is_left_alone() -> None:
    def policy(observation: Any, key: Any = "default", /) -> Any:
        return key

    assert act(policy)[1] == "default"


def test_a_builtin_without_a_signature_gets_the_observation() -> None:
    assert act(max)[1] == 2.0


def test_a_jitted_function_is_seen_through() -> None:
    @jax.jit
    def policy(observation: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key)

    assert act(policy)[1] == jax.random.uniform(KEY)


def test_parameters_alone_are_no_policy() -> None:
    with pytest.raises(TypeError, match=r"must be callable to be shown; got `dict`"):
        adapt_policy({"w": 1})
