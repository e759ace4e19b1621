"""lerax's own PPO with metrics, hyper-parameters and videos of the agent.

pip install 'metriplex[tensorboard,video,pygame]' lerax
python examples/integrations/lerax_ppo.py
tensorboard --logdir logs
"""

from __future__ import annotations

import jax
from lerax.algorithm import PPO
from lerax.env import CartPole
from lerax.policy import MLPActorCriticPolicy

from metriplex import MetricsCallback
from metriplex.integrations.lerax import LeraxCallback


def main() -> None:
    env = CartPole()
    policy = MLPActorCriticPolicy(env=env, key=jax.random.key(0))
    algo = PPO(num_envs=4, num_steps=128, num_epochs=4, num_batches=4, learning_rate=1e-3)
    hparams = {"ppo": algo, "policy": policy}
    with MetricsCallback(env=env, policy=policy, hparams=hparams, video_interval=16) as metrics:
        algo.learn(env, policy, 2**14, key=jax.random.key(1), callback=LeraxCallback(metrics))
        metrics.close(timeout=300)  # this short training ends long before its videos are drawn
        print(f"logged to {metrics.directory}")


if __name__ == "__main__":
    main()
