"""The pytest plugin of metriplex, in a package of its own so that pytest starts without jax."""
