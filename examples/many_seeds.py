"""Eight seeds in one compiled program: every seed becomes a run, and their statistics another.

python examples/many_seeds.py
tensorboard --logdir logs
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metriplex import MetricsCallback
from metriplex.demo.cartpole import CartPole
from metriplex.demo.policy import ActorCritic
from metriplex.demo.ppo import Config, train
from metriplex.device.summary import averages

SEEDS = jnp.arange(8)
CONFIG = Config(num_envs=8, num_iterations=20, num_epochs=4)


def main() -> None:
    with MetricsCallback(
        env=CartPole(), policy=ActorCritic, lanes={"seed": SEEDS}, aggregate=True
    ) as metrics:
        program = jax.vmap(lambda seed: train(metrics, jax.random.key(seed), CONFIG))
        trained = jax.jit(program)(SEEDS)
        mean_returns, _, _ = jax.vmap(averages)(trained.metrics.episodes)
        for seed, mean_return in enumerate(mean_returns):
            print(f"seed {seed}: mean return {float(mean_return):.1f}")
        print(f"all seeds: mean return {float(mean_returns.mean()):.1f}")
        print(f"logged to {metrics.directory}")


if __name__ == "__main__":
    main()
