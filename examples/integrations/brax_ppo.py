"""brax's own PPO, with its metrics and with videos that MuJoCo draws.

pip install 'metriplex[tensorboard,video,mujoco]' brax
python examples/integrations/brax_ppo.py
tensorboard --logdir logs
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from brax import envs
from brax.training.agents.ppo import train as ppo

from metriplex import MetricsCallback
from metriplex.integrations.brax import BraxEnvironment, policy_params_fn, progress_fn


def replicate(tree, devices):
    """Replace `jax.device_put_replicated`, which brax 0.14 calls and jax 0.10 no longer has."""
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    return jax.tree.map(
        lambda x: jax.device_put(jnp.stack([jnp.asarray(x)] * len(devices)), sharding), tree
    )


def main() -> None:
    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = replicate
    env = envs.get_environment("inverted_pendulum", backend="positional")
    with MetricsCallback(env=BraxEnvironment(env), video_interval=1) as metrics:
        ppo.train(
            environment=env,
            num_timesteps=2**13,
            episode_length=128,
            num_envs=16,
            batch_size=16,
            num_minibatches=4,
            unroll_length=8,
            num_evals=2,
            num_eval_envs=16,
            max_devices_per_host=1,
            log_training_metrics=True,
            training_metrics_steps=2**11,
            progress_fn=progress_fn(metrics),
            policy_params_fn=policy_params_fn(metrics),
        )
        metrics.close(timeout=300)  # this short training ends long before its videos are drawn
    print("logged to logs")


if __name__ == "__main__":
    main()
