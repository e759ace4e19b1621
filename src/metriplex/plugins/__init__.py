"""Plugins: their hooks, and finding, making, checking and calling them through pluggy.

This room knows the records and NumPy, never jax. The user's thread constructs plugins; `hookspecs`
says which threads call the hooks.
"""
