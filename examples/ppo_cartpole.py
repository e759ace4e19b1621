"""PPO on CartPole in one compiled program; the five numbered lines log it.

pip install 'metriplex[tensorboard]'
python examples/ppo_cartpole.py
tensorboard --logdir logs

References:
    CartPole: Barto, Sutton and Anderson, 1983, with the constants of Gymnasium's CartPole-v1.
    PPO: Schulman et al., 2017, https://arxiv.org/abs/1707.06347
    GAE: Schulman et al., 2016, https://arxiv.org/abs/1506.02438
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metriplex import MetricsCallback, average_stats


@dataclass(frozen=True)
class Config:
    num_envs: int = 16
    rollout_length: int = 128
    num_iterations: int = 40
    num_epochs: int = 8
    num_minibatches: int = 4
    learning_rate: float = 1e-3
    gamma: float = 0.98
    gae_lambda: float = 0.8
    clip: float = 0.2
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5

    def optimizer(self):
        num_updates = self.num_iterations * self.num_epochs * self.num_minibatches
        rate = optax.linear_schedule(self.learning_rate, 0.0, num_updates)
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.inject_hyperparams(optax.adam)(learning_rate=rate, eps=1e-5),
        )


class Envs(NamedTuple):
    """The state of all environments."""

    observation: jax.Array  # [env, 4]: the cart's position and velocity, the pole's angle and spin
    time: jax.Array  # [env]: steps since the episode began


class Steps(NamedTuple):
    """One step of all environments, `[env]`, or a rollout, `[time, env]`."""

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_observation: jax.Array  # before a reset


def reset(key, num_envs):
    observation = jax.random.uniform(key, (num_envs, 4), minval=-0.05, maxval=0.05)
    return Envs(observation, jnp.zeros(num_envs, jnp.int32))


def cart_pole(observation, action):
    """The observation 20 ms later: action 1 pushes the cart to the right, action 0 to the left."""
    gravity, pole, total, half_length, force = 9.8, 0.1, 1.1, 0.5, 10.0  # m/s², kg, kg, m, N
    _, velocity, angle, spin = observation.T
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    drive = jnp.where(action == 1, force, -force) + pole * half_length * spin**2 * sin
    inertia = half_length * (4.0 / 3.0 - pole * cos**2 / total)
    spin_change = (gravity * sin - cos * drive / total) / inertia
    velocity_change = (drive - pole * half_length * spin_change * cos) / total
    change = jnp.stack([velocity, velocity_change, spin, spin_change], axis=-1)
    return observation + 0.02 * change


def init_mlp(key, sizes, output_scale):
    scales = [1.0] * (len(sizes) - 2) + [output_scale]
    keys = jax.random.split(key, len(scales))
    return [
        (scale * jax.random.normal(k, (n, m)) / n**0.5, jnp.zeros(m))
        for k, n, m, scale in zip(keys, sizes[:-1], sizes[1:], scales, strict=True)
    ]


def mlp(layers, x):
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = jnp.tanh(x @ w + b)
    return x @ weight + bias


def log_probs(params, observation):
    return jax.nn.log_softmax(mlp(params["actor"], observation))


def value(params, observation):
    return mlp(params["critic"], observation)[..., 0]


def collect(params, envs, key, config):
    """A rollout; an environment whose episode ends starts the next episode at once."""

    def step(envs, key):
        action_key, reset_key = jax.random.split(key)
        log_prob = log_probs(params, envs.observation)
        action = jax.random.categorical(action_key, log_prob)
        observation, time = cart_pole(envs.observation, action), envs.time + 1
        fallen = jnp.abs(observation[:, 2]) > jnp.radians(12.0)
        terminated = fallen | (jnp.abs(observation[:, 0]) > 2.4)
        truncated = ~terminated & (time >= 500)
        steps = Steps(
            envs.observation,
            action,
            jnp.take_along_axis(log_prob, action[:, None], axis=-1)[:, 0],
            jnp.ones(config.num_envs),
            terminated,
            truncated,
            observation,
        )
        fresh, done = reset(reset_key, config.num_envs), terminated | truncated
        after = Envs(
            jnp.where(done[:, None], fresh.observation, observation), jnp.where(done, 0, time)
        )
        return after, steps

    return jax.lax.scan(step, envs, jax.random.split(key, config.rollout_length))


def advantages(params, rollout, config):
    """Generalized advantage estimation, `[time, env]`; a truncated episode is bootstrapped."""
    next_value = jnp.where(rollout.terminated, 0.0, value(params, rollout.next_observation))
    delta = rollout.reward + config.gamma * next_value - value(params, rollout.observation)
    going_on = ~(rollout.terminated | rollout.truncated)
    decay = config.gamma * config.gae_lambda * going_on

    def back(later, step):
        advantage = step[0] + step[1] * later
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]


def loss(params, batch, config):
    """PPO's clipped objective, and the scalars that are logged."""
    steps, advantage, target = batch
    every = log_probs(params, steps.observation)
    log_ratio = jnp.take_along_axis(every, steps.action[:, None], axis=-1)[:, 0] - steps.log_prob
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    advantage = (advantage - advantage.mean()) / jnp.maximum(advantage.std(), 1.0)
    policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
    value_loss = 0.5 * jnp.square(value(params, steps.observation) - target).mean()
    total = policy_loss + config.value_coefficient * value_loss
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": -(jnp.exp(every) * every).sum(-1).mean(),
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": (jnp.abs(ratio - 1) > config.clip).mean(),
    }


def update(params, opt_state, rollout, key, config):
    """Some epochs of minibatches; the training log is the mean over all minibatches."""
    advantage = advantages(params, rollout, config)
    target = advantage + value(params, rollout.observation)
    explained = 1 - jnp.var(advantage) / jnp.maximum(jnp.var(target), 1e-8)
    num_steps = config.num_envs * config.rollout_length
    batch = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), (rollout, advantage, target))
    optimizer = config.optimizer()

    def minibatch(learner, indices):
        params, opt_state = learner
        minibatch = jax.tree.map(lambda x: x[indices], batch)
        (_, log), gradient = jax.value_and_grad(loss, has_aux=True)(params, minibatch, config)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        log["grad_norm"] = optax.tree.norm(gradient)
        return (optax.apply_updates(params, updates), opt_state), log

    keys = jax.random.split(key, config.num_epochs)
    orders = jax.vmap(lambda key: jax.random.permutation(key, num_steps))(keys)
    minibatches = orders.reshape(config.num_epochs * config.num_minibatches, -1)
    (params, opt_state), log = jax.lax.scan(minibatch, (params, opt_state), minibatches)
    return params, opt_state, jax.tree.map(jnp.mean, log) | {"explained_variance": explained}


@partial(jax.jit, static_argnames="config")
def train(metrics, key, config):
    actor_key, critic_key, reset_key, key = jax.random.split(key, 4)
    params = {
        "actor": init_mlp(actor_key, [4, 64, 64, 2], 0.01),
        "critic": init_mlp(critic_key, [4, 64, 64, 1], 1.0),
    }
    envs = reset(reset_key, config.num_envs)
    state = metrics.init(config.num_envs)  # 1

    def iteration(carry, key):
        params, opt_state, envs, state = carry
        collect_key, update_key = jax.random.split(key)
        envs, rollout = collect(params, envs, collect_key, config)
        params, opt_state, log = update(params, opt_state, rollout, update_key, config)
        state = metrics.on_step(  # 2
            state, rollout.reward, terminated=rollout.terminated, truncated=rollout.truncated
        )
        state = metrics.on_iteration(state, training_log=log, opt_state=opt_state)  # 3
        return (params, opt_state, envs, state), None

    carry = (params, config.optimizer().init(params), envs, state)
    carry, _ = jax.lax.scan(iteration, carry, jax.random.split(key, config.num_iterations))
    params, _, _, state = carry
    return params, state


def main() -> None:
    config = Config()
    with MetricsCallback(policy="PPO", env="CartPole", hparams={"ppo": config}) as metrics:  # 4
        _, state = train(metrics, jax.random.key(0), config)  # 5
        mean_return, _, _ = average_stats(state.episodes)
        print(f"mean return {mean_return:.1f}, logged to {metrics.directory}")


if __name__ == "__main__":
    main()
