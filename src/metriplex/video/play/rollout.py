"""The evaluation rollout: steps of one environment with the current policy.

A program traces `rollout`; `play` runs on the host, for environments that can't be traced. Both
return the same states for the same key.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metriplex.video.play.policies import adapt_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from metriplex.plugins.interfaces import Environment
    from metriplex.video.play.policies import Actor


def rollout(
    env: Environment, policy: Any, key: jax.Array, *, num_steps: int, select: Callable[[Any], Any]
) -> Any:
    """Play `num_steps` steps, and start a new episode whenever one ends; traceable.

    `policy` is a policy as the user gave it. The same typed key gives the same rollout. The first
    state of an episode is one of the steps.

    Returns:
        The results of `select`, with a leading axis `[num_steps]` on each leaf.
    """
    actor = adapt_policy(policy)
    env_key, policy_key, steps_key = jax.random.split(key, 3)
    first = _varying((env.reset(env_key), actor.reset(policy_key)))

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], Any]:
        env_state, policy_state = carry
        keys = jax.random.split(key, 6)
        selected = select(env_state)
        observation = env.observe(env_state, keys[0])
        mask = env.action_mask(env_state, keys[1])
        policy_state, action = actor.act(policy_state, observation, keys[2], mask)
        with _naming(action):
            env_state, done = env.step(env_state, action, keys[3])
            carry = lax.cond(
                jnp.asarray(done, bool).reshape(()),
                lambda: _like((env.reset(keys[4]), actor.reset(keys[5])), carry),
                lambda: _like((env_state, policy_state), carry),
            )
        return carry, jax.tree.map(_plain, selected)

    _, selected = lax.scan(step, first, jax.random.split(steps_key, num_steps))
    return selected


def play(
    env: Environment, actor: Actor, key: jax.Array, *, num_steps: int, select: Callable[[Any], Any]
) -> Iterator[Any]:
    """Play a rollout like `rollout`, one step after another on the host.

    Actions reach the environment as NumPy arrays, and each result of `select` holds NumPy arrays.
    """
    env_key, policy_key, steps_key = jax.random.split(key, 3)
    env_state, policy_state = env.reset(env_key), actor.reset(policy_key)
    for keys in jax.vmap(lambda one: jax.random.split(one, 6))(
        jax.random.split(steps_key, num_steps)
    ):
        # A copy, as an environment may write its next state into the same arrays.
        yield jax.tree.map(lambda leaf: np.array(_plain(leaf)), select(env_state))
        observation = env.observe(env_state, keys[0])
        mask = env.action_mask(env_state, keys[1])
        policy_state, action = actor.act(policy_state, observation, keys[2], mask)
        with _naming(action):
            env_state, done = env.step(env_state, jax.tree.map(np.asarray, action), keys[3])
        if done:
            env_state, policy_state = env.reset(keys[4]), actor.reset(keys[5])


@contextlib.contextmanager
def _naming(action: Any) -> Generator[None]:
    """Name what the policy returned in an error of the environment that it may have caused."""
    try:
        yield
    except jax.errors.JAXTypeError:  # the environment can't be traced
        raise
    except Exception as error:
        remedy = _remedy(action)
        if not remedy:
            raise
        first_line = str(error).strip().partition("\n")[0]
        raise TypeError(
            f"the environment can't take a step with what the policy returned, "
            f"`{_describe(action)}`: {remedy} ({type(error).__name__}: {first_line})"
        ) from error


def _remedy(action: Any) -> str:
    """Return how to fix a policy whose result looks like no action; empty if it looks like one."""
    if isinstance(action, tuple | list):
        return "return the action alone, without its log-probability, value or state"
    if not hasattr(action, "dtype"):
        return "return an action, such as a sample of a distribution"
    if jnp.ndim(action) and jnp.issubdtype(action.dtype, jnp.floating):
        return "if the environment takes other actions, return one of them instead of logits"
    return ""


def _describe(action: Any) -> str:
    """Return the dtypes and shapes of an action, or the type of one that is no array."""
    if isinstance(action, tuple | list):
        return f"({', '.join(map(_describe, action))})"
    if hasattr(action, "dtype"):
        return f"{action.dtype}{list(jnp.shape(action))}"
    return type(action).__name__


def _like(new: Any, old: Any) -> Any:
    """Cast new values to the types of the old ones, which the carry of a scan requires."""

    def cast(new: Any, old: Any) -> Any:
        dtype = jnp.result_type(old)
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return new
        return jnp.asarray(new, dtype)

    return _varying(jax.tree.map(cast, new, old))


def _varying(tree: Any) -> Any:
    """Return the same values, typed as varying over the devices of a `shard_map`.

    The carry of a scan must have this type before and after each step, or never.
    """
    axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    if not axes:
        return tree
    never = lax.axis_index(axes) < 0
    return jax.tree.map(lambda leaf: jnp.where(never, leaf, leaf), tree)


def _plain(leaf: Any) -> Any:
    """Return an array of a plain dtype: PRNG keys become their words."""
    if isinstance(leaf, jax.Array):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf
    return np.asarray(leaf)
