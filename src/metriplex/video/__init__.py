"""Evaluation videos: played in the program, drawn and encoded off the training path.

`play` runs in jax and on the device; `draw` has the threads and the process that draw; `encode`
uses NumPy and the picture formats alone.
"""
