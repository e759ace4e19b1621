"""Step many environments at once, and estimate advantages of their rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp

from metriplex.demo.environment import Environment  # noqa: TC001 - part of public annotations
from metriplex.demo.policy import ActorCritic  # noqa: TC001


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EnvStates:
    """All environments between two steps; every leaf has the leading axis `[env]`."""

    state: Any
    observation: jax.Array


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rollout:
    """Consecutive steps of all environments; every leaf has the leading axes `[time, env]`."""

    observation: jax.Array  # before the step, `[time, env, observation]`
    action: jax.Array  # int32
    log_prob: jax.Array  # of the action
    action_mask: jax.Array | None  # bool `[time, env, actions]`; None if all were allowed
    reward: jax.Array
    terminated: jax.Array  # True if the step terminated the episode: later rewards are 0
    truncated: jax.Array  # True if the step truncated the episode: later rewards are unknown
    next_observation: jax.Array  # after the step, before a reset


def reset(env: Environment, key: jax.Array, num_envs: int) -> EnvStates:
    """Start an episode in every environment."""
    state_keys, observation_keys = jax.random.split(key, (2, num_envs))
    state = jax.vmap(lambda k: env.initial(key=k))(state_keys)
    observation = jax.vmap(lambda s, k: env.observation(s, key=k))(state, observation_keys)
    return EnvStates(state, observation)


def collect(
    env: Environment, policy: ActorCritic, envs: EnvStates, key: jax.Array, length: int
) -> tuple[EnvStates, Rollout]:
    """Step all environments `length` times; an environment whose episode ends is reset.

    Return the environments after the last step, and the rollout.
    """
    num_envs = envs.observation.shape[0]

    def act(state: Any, observation: jax.Array, key: jax.Array) -> tuple[Any, Rollout]:
        mask_key, policy_key, step_key, observe_key, reward_key, end_key = jax.random.split(key, 6)
        mask = env.action_mask(state, key=mask_key)
        _, action = policy(None, observation, key=policy_key, action_mask=mask)
        next_state = env.transition(state, action, key=step_key)
        terminated = env.terminal(next_state, key=end_key)
        return next_state, Rollout(
            observation=observation,
            action=action,
            log_prob=jax.nn.log_softmax(policy.logits(observation, mask))[action],
            action_mask=mask,
            reward=env.reward(state, action, next_state, key=reward_key),
            terminated=terminated,
            truncated=env.truncate(next_state) & ~terminated,
            next_observation=env.observation(next_state, key=observe_key),
        )

    def step(envs: EnvStates, key: jax.Array) -> tuple[EnvStates, Rollout]:
        act_key, reset_key = jax.random.split(key)
        act_keys = jax.random.split(act_key, num_envs)
        next_state, rollout = jax.vmap(act)(envs.state, envs.observation, act_keys)
        going_on = EnvStates(next_state, rollout.next_observation)
        done = rollout.terminated | rollout.truncated

        def pick(fresh: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(done.reshape(num_envs, *[1] * (old.ndim - 1)), fresh, old)

        return jax.tree.map(pick, reset(env, reset_key, num_envs), going_on), rollout

    return jax.lax.scan(step, envs, jax.random.split(key, length))


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: float,
    gae_lambda: float,
) -> jax.Array:
    """Return the generalised advantage estimates of a rollout, `[time, ...]` like all arguments.

    The error of a step is `d[t] = r[t] + gamma * V(s[t+1]) - V(s[t])`, where `V(s[t+1])` counts as
    0 after a termination, but not after a truncation. The advantage is
    `A[t] = d[t] + gamma * gae_lambda * A[t+1]` within an episode, and `d[t]` at its last step.
    `next_value` is V of the state after each step, before a reset.

    References:
        Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation" (2016), arXiv:1506.02438.
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    decay = gamma * gae_lambda * jnp.where(terminated | truncated, 0.0, 1.0)

    def back(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        advantage = step[0] + step[1] * later
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]
