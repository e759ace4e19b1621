"""The evaluation rollout: some steps of one environment with the current policy, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from metriplex.video.policies import adapt_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.rendering import Environment


def rollout(
    env: Environment,
    policy: Any,
    key: jax.Array,
    *,
    num_steps: int,
    select: Callable[[Any], Any],
) -> Any:
    """Plays `num_steps` steps, starting a new episode whenever one ends.

    Args:
        env: The environment, adapted.
        policy: The policy, see `metriplex.video.policies.adapt_policy`.
        key: Typed PRNG key; the same key gives the same rollout.
        num_steps: How many states are recorded, the first one of an episode included.
        select: What is kept of each state.

    Returns:
        What `select` gives, with a leading axis `[num_steps]` on each leaf.
    """
    actor = adapt_policy(policy)
    env_key, policy_key, steps_key = jax.random.split(key, 3)
    env_state = env.reset(env_key)
    policy_state = actor.reset(policy_key)

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], Any]:
        env_state, policy_state = carry
        keys = jax.random.split(key, 6)
        selected = select(env_state)
        observation = env.observe(env_state, keys[0])
        mask = env.action_mask(env_state, keys[1])
        next_policy_state, action = actor.act(policy_state, observation, keys[2], mask)
        next_env_state, done = env.step(env_state, action, keys[3])
        env_state = _where(done, env.reset(keys[4]), next_env_state, env_state)
        policy_state = _where(done, actor.reset(keys[5]), next_policy_state, policy_state)
        return (env_state, policy_state), _plain(selected)

    _, selected = lax.scan(step, (env_state, policy_state), jax.random.split(steps_key, num_steps))
    return selected


def _where(condition: jax.Array, new: Any, old: Any, like: Any) -> Any:
    """A choice leaf by leaf, of the types of `like`, as the carry of a scan has to be."""

    def choose(new: Any, old: Any, like: Any) -> Any:
        if jnp.issubdtype(jnp.result_type(like), jax.dtypes.prng_key):
            return jnp.where(condition, new, old)
        dtype = jnp.result_type(like)
        return jnp.where(condition, jnp.asarray(new, dtype), jnp.asarray(old, dtype))

    return jax.tree.map(choose, new, old, like)


def _plain(selected: Any) -> Any:
    """Arrays of plain dtypes: PRNG keys, which drawing can't need, become their words."""

    def plain(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(plain, selected)
