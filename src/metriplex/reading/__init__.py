"""Read a run from its journal as NumPy columns. Never imports jax; users' threads call it."""
