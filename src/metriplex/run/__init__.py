"""The host side of one run: rows become records, in order, checked, and reach every worker.

This room never imports jax. The receiver thread and the user's threads call it; a lock keeps the
records of both in one order.
"""
