"""Share one run among the processes of `jax.distributed`; one process writes it.

This package uses the run and jax's coordination service. The user's thread and the receiver thread
of each process call it.
"""
