"""Read and replay the event files of TensorBoard, from any writer, as records of a run.

This room imports the journal's entries, NumPy and the file formats, never jax. Commands call it on
the user's thread.
"""
