"""PPO in the style of PureJaxRL on a gymnax environment; the five numbered lines log it.

pip install gymnax flax
python examples/integrations/purejaxrl_style.py
tensorboard --logdir logs
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from metriplex import MetricsCallback
from metriplex.integrations.gymnax import GymnaxEnvironment

CONFIG: dict[str, Any] = {
    "ENV_NAME": "CartPole-v1",
    "LR": 2.5e-3,
    "NUM_ENVS": 8,
    "NUM_STEPS": 64,
    "TOTAL_TIMESTEPS": 2**16,
    "UPDATE_EPOCHS": 4,
    "NUM_MINIBATCHES": 4,
    "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95,
    "CLIP_EPS": 0.2,
    "ENT_COEF": 0.01,
    "VF_COEF": 0.5,
    "MAX_GRAD_NORM": 0.5,
    "SEEDS": 2,
}


class ActorCritic(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, obs):
        def tower(name: str, outputs: int) -> Any:
            hidden = nn.tanh(nn.Dense(64, name=f"{name}_0")(obs))
            hidden = nn.tanh(nn.Dense(64, name=f"{name}_1")(hidden))
            return nn.Dense(outputs, name=f"{name}_2")(hidden)

        return jax.nn.log_softmax(tower("actor", self.num_actions)), tower("critic", 1)[..., 0]


class Transition(NamedTuple):
    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def make_train(config, env, params):
    steps_per_update = config["NUM_ENVS"] * config["NUM_STEPS"]
    num_updates = config["TOTAL_TIMESTEPS"] // steps_per_update
    network: Any = ActorCritic(env.action_space(params).n)

    def loss_fn(weights, batch, advantages, targets):
        log_probs, value = network.apply(weights, batch.obs)
        log_prob = jnp.take_along_axis(log_probs, batch.action[..., None], axis=-1)[..., 0]
        ratio = jnp.exp(log_prob - batch.log_prob)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        clipped = jnp.clip(ratio, 1 - config["CLIP_EPS"], 1 + config["CLIP_EPS"])
        policy_loss = -jnp.minimum(ratio * advantages, clipped * advantages).mean()
        value_loss = jnp.square(value - targets).mean() / 2
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
        loss = policy_loss + config["VF_COEF"] * value_loss - config["ENT_COEF"] * entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    def train(metrics, rng):
        rng, init_rng, reset_rng = jax.random.split(rng, 3)
        obs, env_state = jax.vmap(env.reset, (0, None))(
            jax.random.split(reset_rng, config["NUM_ENVS"]), params
        )
        tx = optax.chain(
            optax.clip_by_global_norm(config["MAX_GRAD_NORM"]),
            optax.inject_hyperparams(optax.adam)(
                optax.linear_schedule(
                    config["LR"],
                    0.0,
                    num_updates * config["UPDATE_EPOCHS"] * config["NUM_MINIBATCHES"],
                ),
                eps=1e-5,
            ),
        )
        train_state = TrainState.create(
            apply_fn=network.apply, params=network.init(init_rng, obs[0]), tx=tx
        )
        logging = metrics.init(config["NUM_ENVS"])  # 1

        def env_step(carry, rng):
            train_state, env_state, obs = carry
            act_rng, step_rng = jax.random.split(rng)
            log_probs, value = network.apply(train_state.params, obs)
            action = jax.random.categorical(act_rng, log_probs)
            log_prob = jnp.take_along_axis(log_probs, action[:, None], axis=-1)[:, 0]
            # gymnax 1 returns terminated and truncated, gymnax 0 returns one `done`
            next_obs, env_state, reward, *ends, _ = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(step_rng, config["NUM_ENVS"]), env_state, action, params
            )
            done = jnp.stack(ends).any(0)
            transition = Transition(obs, action, log_prob, value, reward, done)
            return (train_state, env_state, next_obs), transition

        def gae(traj, last_value):
            def step(carry, t):
                advantage, next_value = carry
                alive = 1.0 - t.done
                delta = t.reward + config["GAMMA"] * next_value * alive - t.value
                advantage = delta + config["GAMMA"] * config["GAE_LAMBDA"] * alive * advantage
                return (advantage, t.value), advantage

            start = (jnp.zeros_like(last_value), last_value)
            advantages = jax.lax.scan(step, start, traj, reverse=True)[1]
            return advantages, advantages + traj.value

        def update(carry, rng):
            train_state, env_state, obs, logging = carry
            rollout_rng, *epoch_rngs = jax.random.split(rng, 1 + config["UPDATE_EPOCHS"])
            (train_state, env_state, obs), traj = jax.lax.scan(
                env_step,
                (train_state, env_state, obs),
                jax.random.split(rollout_rng, config["NUM_STEPS"]),
            )
            last_value = network.apply(train_state.params, obs)[1]
            batch = (traj, *gae(traj, last_value))

            def minibatch(train_state, batch):
                grads, info = jax.grad(loss_fn, has_aux=True)(train_state.params, *batch)
                return train_state.apply_gradients(grads=grads), info

            def epoch(train_state, rng):
                order = jax.random.permutation(rng, steps_per_update)
                shuffled = jax.tree.map(
                    lambda x: x.reshape(steps_per_update, *x.shape[2:])[order].reshape(
                        config["NUM_MINIBATCHES"], -1, *x.shape[2:]
                    ),
                    batch,
                )
                return jax.lax.scan(minibatch, train_state, shuffled)

            train_state, info = jax.lax.scan(epoch, train_state, jnp.stack(epoch_rngs))

            def policy(obs, key):
                return jax.random.categorical(key, network.apply(train_state.params, obs)[0])

            logging = metrics.on_step(logging, traj.reward, traj.done)  # 2
            logging = metrics.on_iteration(  # 3
                logging,
                training_log=jax.tree.map(jnp.mean, info),
                opt_state=train_state.opt_state,
                policy=policy,
                key=rng,
            )
            return (train_state, env_state, obs, logging), traj.reward.sum()

        carry, rewards = jax.lax.scan(
            update, (train_state, env_state, obs, logging), jax.random.split(rng, num_updates)
        )
        return {"train_state": carry[0], "rewards": rewards}

    return train


def main() -> None:
    env, params = gymnax.make(CONFIG["ENV_NAME"])
    train = jax.jit(jax.vmap(make_train(CONFIG, env, params), in_axes=(None, 0)))
    rngs = jax.random.split(jax.random.key(30), CONFIG["SEEDS"])
    shown = GymnaxEnvironment(env, params)
    with MetricsCallback(env=shown, hparams=CONFIG, video_interval=64) as metrics:  # 4
        out = jax.block_until_ready(train(metrics, rngs))  # 5
        metrics.close(timeout=300)  # this short training ends long before its videos are drawn
    print(f"rewards of the last update: {out['rewards'][:, -1].tolist()}")
    print(f"logged to {metrics.directory}")


if __name__ == "__main__":
    main()
