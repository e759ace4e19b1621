"""The pytest plugin of metriplex; a package of its own, so that pytest starts without jax."""
