"""rejax's own PPO on four seeds at once; each evaluation of each seed is logged when it is made.

pip install 'metriplex[tensorboard]' rejax 'gymnax<1'
python examples/integrations/rejax_seeds.py
tensorboard --logdir logs
"""

from __future__ import annotations

import jax
import rejax

from metriplex import MetricsCallback
from metriplex.integrations.rejax import eval_callback

SEEDS = 4


def main() -> None:
    algo = rejax.get_algo("ppo").create(
        env="CartPole-v1", num_envs=8, num_steps=32, total_timesteps=2**14, eval_freq=2**12
    )
    keys = jax.random.split(jax.random.PRNGKey(0), SEEDS)
    with MetricsCallback("rejax", hparams={"total_timesteps": algo.total_timesteps}) as metrics:
        algo = algo.replace(eval_callback=eval_callback(metrics, algo.eval_callback))
        _, (_, returns) = jax.jit(jax.vmap(algo.train))(keys)
        last = [f"{value:.1f}" for value in returns.mean(-1)[:, -1].tolist()]
        print(f"mean returns at the end: {', '.join(last)}")
        print(f"logged to {metrics.directory}")


if __name__ == "__main__":
    main()
