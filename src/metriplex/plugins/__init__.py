"""The pluggy host: what a plugin may implement, how it is found, made, checked and called.

Plugins rooms know the records and NumPy, never jax. Users' threads construct plugins here; the hooks
themselves run in the threads that `hookspecs` names.
"""
