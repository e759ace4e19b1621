"""Eight seeds in one compiled program: every seed is a lane of the run, with statistics over all.

python examples/many_seeds.py
tensorboard --logdir logs
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from ppo_cartpole import Config, train

from metriplex import MetricsCallback, average_stats

SEEDS = jnp.arange(8)
CONFIG = Config(num_envs=8, num_iterations=20, num_epochs=4)


def main() -> None:
    with MetricsCallback(
        policy="PPO", env="CartPole", lanes={"seed": SEEDS}, aggregate=True
    ) as metrics:
        program = jax.vmap(lambda seed: train(metrics, jax.random.key(seed), CONFIG))
        _, states = jax.jit(program)(SEEDS)
        mean_returns, _, _ = jax.vmap(average_stats)(states.episodes)
        for seed, mean_return in enumerate(mean_returns):
            print(f"seed {seed}: mean return {mean_return:.1f}")
        print(f"all seeds: mean return {mean_returns.mean():.1f}")
        print(f"logged to {metrics.directory}")


if __name__ == "__main__":
    main()
