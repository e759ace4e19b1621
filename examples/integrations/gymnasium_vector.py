"""A Python loop over a vector environment of Gymnasium, logged by one line an iteration.

pip install 'metriplex[tensorboard]' gymnasium
python examples/integrations/gymnasium_vector.py
tensorboard --logdir logs
"""

from __future__ import annotations

import gymnasium
import numpy as np

from metriplex import MetricsCallback
from metriplex.integrations.gymnasium import VectorEpisodes


def main() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    episodes = VectorEpisodes(envs)
    observation, _ = envs.reset(seed=0)
    with MetricsCallback("gymnasium", total_steps=4 * 2000) as metrics:
        for iteration in range(20):
            gain = iteration / 20  # the policy improves: it pushes to where the pole falls
            for _ in range(100):
                falls = observation[:, 2] + gain * observation[:, 3] > 0
                observation, reward, terminated, truncated, _ = envs.step(falls.astype(np.int64))
                episodes.update(reward, terminated, truncated)
            metrics.log(episodes.steps, {"episode": episodes.averages(), "policy": {"gain": gain}})
        print(f"mean return {episodes.averages()['return']:.1f}, logged to {metrics.directory}")
    envs.close()


if __name__ == "__main__":
    main()
