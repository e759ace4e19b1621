"""Compute metrics on the device, with pure functions and frozen dataclasses that programs trace.

This room imports jax, the records and the bridge, and no host object, thread, run or video.
"""
