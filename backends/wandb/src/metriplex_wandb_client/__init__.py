"""The process of the wandb client, which imports neither metriplex nor jax."""
