"""SBX's PPO on CartPole; one argument of `learn` logs everything that its logger gets.

pip install 'metriplex[tensorboard]' sbx-rl
python examples/integrations/sbx_ppo.py
tensorboard --logdir logs
"""

from __future__ import annotations

from sbx import PPO
from stable_baselines3.common.env_util import make_vec_env

from metriplex import MetricsCallback
from metriplex.integrations.stable_baselines3 import SB3Callback, hparams


def main() -> None:
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=4), n_steps=128, seed=0)
    with MetricsCallback("sbx_ppo", total_steps=2**14, hparams=hparams(model)) as metrics:
        model.learn(2**14, callback=SB3Callback(metrics))
    mean = sum(episode["r"] for episode in model.ep_info_buffer) / len(model.ep_info_buffer)
    print(f"mean return {mean:.1f}, logged to logs")


if __name__ == "__main__":
    main()
