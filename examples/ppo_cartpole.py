"""PPO on CartPole: what a compiled training loop adds to be logged.

Run it, then look at what it wrote:

    python examples/ppo_cartpole.py
    tensorboard --logdir logs
"""

from __future__ import annotations

from functools import partial

import jax

from metriplex import MetricsCallback
from metriplex.demo.cartpole import CartPole
from metriplex.demo.policy import ActorCritic
from metriplex.demo.ppo import Config, improve
from metriplex.demo.rollout import collect, reset
from metriplex.device.summary import averages

ENV = CartPole()
CONFIG = Config(num_iterations=40)


@partial(jax.jit, static_argnames="config")
def train(metrics, key, config):
    policy_key, reset_key, key = jax.random.split(key, 3)
    envs = reset(ENV, reset_key, config.num_envs)
    policy = ActorCritic.init(policy_key, 4, ENV.num_actions, config.hidden)
    opt_state = config.optimizer().init(policy)
    logging = metrics.init(config.num_envs)

    def iteration(carry, key):
        envs, policy, opt_state, logging = carry
        collect_key, improve_key = jax.random.split(key)
        envs, rollout = collect(ENV, policy, envs, collect_key, config.rollout_length)
        policy, opt_state, log = improve(policy, opt_state, rollout, improve_key, config)

        # these two lines are what an existing loop adds
        logging = metrics.on_step(logging, rollout.reward, rollout.terminated | rollout.truncated)
        logging = metrics.on_iteration(logging, training_log=log, opt_state=opt_state)

        return (envs, policy, opt_state, logging), None

    keys = jax.random.split(key, config.num_iterations)
    (_, policy, _, logging), _ = jax.lax.scan(iteration, (envs, policy, opt_state, logging), keys)
    return policy, logging


def main() -> None:
    with MetricsCallback(env=ENV, policy=ActorCritic, hparams={"ppo": CONFIG}) as metrics:
        _, logging = train(metrics, jax.random.key(0), CONFIG)
        mean_return, _, _ = averages(logging.episodes)
        print(f"mean return {float(mean_return):.1f}, logged to {metrics.directory}")


if __name__ == "__main__":
    main()
