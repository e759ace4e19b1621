"""Turn the rows of one run into ordered, checked records, and queue them for every worker.

This package never imports jax. The receiver thread and the user's threads call it; a lock keeps the
records of both in one order.
"""
