"""Evaluation videos: played in the program, drawn and encoded away from the training.

`play` knows jax and the device; `draw` has the threads and the process that draw; `encode` knows
NumPy and the picture formats alone.
"""
