"""Reading a run back from its journal, as columns of NumPy. Free of jax; users' threads call it."""
