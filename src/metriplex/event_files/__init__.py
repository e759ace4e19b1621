"""Reading TensorBoard's event files, whoever wrote them, as records of a run.

This room knows the journal's entries, NumPy and the file formats, never jax. Commands call it from
the user's thread.
"""
