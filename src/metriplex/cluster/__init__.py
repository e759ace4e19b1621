"""Several processes: they agree on one run, and one of them writes it.

This room knows the run and jax's coordination service. Each process's user thread and receiver
thread call it.
"""
