"""Proximal policy optimisation (PPO) in one compiled program."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeAlias, cast, final

import jax
import jax.numpy as jnp
import optax

from metriplex.callback.callback import MetricsCallback  # noqa: TC001
from metriplex.demo.cartpole import CartPole
from metriplex.demo.environment import Environment  # noqa: TC001 - part of public annotations
from metriplex.demo.policy import ActorCritic
from metriplex.demo.rollout import EnvStates, Rollout, collect, gae, reset
from metriplex.device.state import MetricsState  # noqa: TC001
from metriplex.errors import ConfigurationError

Log: TypeAlias = dict[str, jax.Array]
"""Maps a tag to a scalar."""


@final
@dataclass(frozen=True, slots=True)
class Config:
    """Configuration of a training, without the environment and the key."""

    num_envs: int = 16  # environments that step together
    rollout_length: int = 128  # steps of each environment in an iteration
    num_iterations: int = 200  # rollouts, each followed by an update
    num_epochs: int = 8  # passes over each rollout
    num_minibatches: int = 4  # gradient steps per pass; must divide `batch_size`
    learning_rate: float = 1e-3  # of Adam at the start; decays linearly to 0
    max_grad_norm: float = 0.5  # to which longer gradients are clipped
    gamma: float = 0.98  # discount of a step
    gae_lambda: float = 0.8
    clip: float = 0.2  # clipping range of the probability ratio
    advantage_floor: float = 1.0
    """Lower bound, in units of reward, of the standard deviation that normalises the advantages.

    It keeps noise small when a good policy can hardly improve.
    """
    entropy_coefficient: float = 0.0
    value_coefficient: float = 0.5
    hidden: tuple[int, ...] = (64, 64)  # widths of the hidden layers

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` if a count isn't positive or minibatches differ in size."""
        for name in (f.name for f in fields(self) if f.type == "int"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"`{name}` must be at least 1; got {getattr(self, name)}")
        if self.batch_size % self.num_minibatches:
            raise ConfigurationError(
                f"`num_minibatches` must divide `num_envs * rollout_length`, which is "
                f"{self.batch_size}; got {self.num_minibatches}"
            )

    @property
    def batch_size(self) -> int:
        """Number of environment steps per iteration, over all environments."""
        return self.num_envs * self.rollout_length

    @property
    def total_steps(self) -> int:
        """Number of environment steps of the whole training, over all environments."""
        return self.batch_size * self.num_iterations

    def optimizer(self) -> optax.GradientTransformation:
        """Return Adam with gradient clipping; its state holds the learning rate."""
        num_updates = self.num_iterations * self.num_epochs * self.num_minibatches
        rate = optax.linear_schedule(self.learning_rate, 0.0, num_updates)
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.inject_hyperparams(optax.adam)(learning_rate=rate, eps=1e-5),
        )


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trained:
    """Result of a training: the last parameters and states."""

    policy: ActorCritic
    opt_state: optax.OptState
    metrics: MetricsState | None  # None without a callback


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Steps to learn from; every leaf has the leading axis `[step]`."""

    rollout: Rollout
    advantage: jax.Array  # estimated advantage of the action
    target: jax.Array  # of the value function


def loss(policy: ActorCritic, batch: Batch, config: Config) -> tuple[jax.Array, Log]:
    """Return the clipped PPO loss of a minibatch, and its parts.

    This function normalises the advantages. `approx_kl` is the mean of (ratio - 1) - log ratio.

    References:
        Schulman et al., "Proximal Policy Optimization Algorithms" (2017), arXiv:1707.06347.
    """
    rollout = batch.rollout
    log_probs = jax.nn.log_softmax(policy.logits(rollout.observation, rollout.action_mask))
    chosen = jnp.take_along_axis(log_probs, rollout.action[..., None], axis=-1)[..., 0]
    log_ratio = chosen - rollout.log_prob
    ratio = jnp.exp(log_ratio)
    spread = jnp.maximum(batch.advantage.std(), config.advantage_floor)
    advantage = (batch.advantage - batch.advantage.mean()) / spread
    clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)

    policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
    value_loss = 0.5 * jnp.mean((policy.value(rollout.observation) - batch.target) ** 2)
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))
    total = (
        policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    )
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": jnp.mean((ratio - 1) - log_ratio),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > config.clip),
    }


def improve(
    policy: ActorCritic, opt_state: optax.OptState, rollout: Rollout, key: jax.Array, config: Config
) -> tuple[ActorCritic, optax.OptState, Log]:
    """Update a policy with a rollout that it has drawn, `[time, env]`, in epochs of minibatches.

    Return the new policy and optimizer state, and the training log: means over the minibatches.
    """
    value = policy.value(rollout.observation)
    advantage = gae(
        rollout.reward,
        value,
        policy.value(rollout.next_observation),
        rollout.terminated,
        rollout.truncated,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    target = advantage + value
    steps = jax.tree.map(
        lambda x: x.reshape(config.batch_size, *x.shape[2:]), Batch(rollout, advantage, target)
    )
    optimizer = config.optimizer()
    # optax's types allow no dataclass as parameters
    Learner: TypeAlias = tuple[Any, optax.OptState]

    def minibatch(learner: Learner, indices: jax.Array) -> tuple[Learner, Log]:
        policy, opt_state = learner
        batch = jax.tree.map(lambda x: x[indices], steps)
        (_, log), grads = jax.value_and_grad(loss, has_aux=True)(policy, batch, config)
        updates, opt_state = optimizer.update(grads, opt_state, policy)
        log |= {"grad_norm": optax.tree.norm(grads)}
        return (optax.apply_updates(policy, updates), opt_state), log

    def epoch(learner: Learner, key: jax.Array) -> tuple[Learner, Log]:
        order = jax.random.permutation(key, config.batch_size)
        return jax.lax.scan(minibatch, learner, order.reshape(config.num_minibatches, -1))

    keys = jax.random.split(key, config.num_epochs)
    (improved, opt_state), logs = jax.lax.scan(epoch, (policy, opt_state), keys)
    log = jax.tree.map(jnp.mean, logs)
    unexplained = jnp.var(target - value) / jnp.maximum(jnp.var(target), 1e-8)
    return improved, opt_state, log | {"explained_variance": 1 - unexplained}


DEFAULT_CONFIG = Config()
CARTPOLE = CartPole()


@partial(jax.jit, static_argnames=("config", "env"))
def train(
    metrics: MetricsCallback | None,
    key: jax.Array,
    config: Config = DEFAULT_CONFIG,
    env: Environment = CARTPOLE,
) -> Trained:
    """Train a policy from scratch; compiled once per configuration and environment.

    `metrics=None` trains in the same way and logs nothing. The same key returns the same policy.
    """
    policy_key, reset_key, training_key = jax.random.split(key, 3)
    envs = reset(env, reset_key, config.num_envs)
    policy = ActorCritic.init(
        policy_key, envs.observation.shape[-1], env.num_actions, config.hidden
    )
    logging: Any = None
    if metrics is not None:
        logging = metrics.on_training_start(metrics.init(config.num_envs))
    State: TypeAlias = tuple[EnvStates, ActorCritic, optax.OptState, Any]

    def iteration(state: State, x: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        envs, policy, opt_state, logging = state
        index, key = x
        collect_key, improve_key, metrics_key = jax.random.split(key, 3)
        envs, rollout = collect(env, policy, envs, collect_key, config.rollout_length)
        policy, opt_state, log = improve(policy, opt_state, rollout, improve_key, config)
        if metrics is not None:
            logging = metrics.on_step(
                logging, rollout.reward, terminated=rollout.terminated, truncated=rollout.truncated
            )
            logging = metrics.on_iteration(
                logging,
                training_log=log,
                opt_state=opt_state,
                iteration=index,
                policy=policy,
                key=metrics_key,
            )
        return (envs, policy, opt_state, logging), None

    state = (envs, policy, config.optimizer().init(cast("Any", policy)), logging)
    keys = jax.random.split(training_key, config.num_iterations)
    xs = (jnp.arange(config.num_iterations), keys)
    (_, policy, opt_state, logging), _ = jax.lax.scan(iteration, state, xs)
    if metrics is not None:
        logging = metrics.on_training_end(logging)
    return Trained(policy, opt_state, logging)
