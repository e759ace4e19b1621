"""The device half: pure functions and frozen dataclasses that programs trace.

This room knows jax, the records and the bridge. It knows no host, no thread, no run and no video.
"""
