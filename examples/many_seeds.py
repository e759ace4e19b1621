"""Eight seeds in one compiled program: every seed becomes a run of its own.

python examples/many_seeds.py
tensorboard --logdir logs
"""

from __future__ import annotations

import jax

from metriplex import MetricsCallback
from metriplex.demo.cartpole import CartPole
from metriplex.demo.policy import ActorCritic
from metriplex.demo.ppo import Config, train
from metriplex.episodes import averages

SEEDS = 8
CONFIG = Config(num_envs=8, num_iterations=20, num_epochs=4)


def main() -> None:
    keys = jax.random.split(jax.random.key(0), SEEDS)
    with MetricsCallback(env=CartPole(), policy=ActorCritic) as metrics:
        trained = jax.jit(jax.vmap(lambda key: train(metrics, key, CONFIG)))(keys)
        mean_returns, _, _ = jax.vmap(averages)(trained.metrics.episodes)
        for seed, mean_return in enumerate(mean_returns):
            print(f"seed {seed}: mean return {float(mean_return):.1f}")
        print(f"logged to {metrics.directory}")


if __name__ == "__main__":
    main()
