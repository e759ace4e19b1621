"""Replay: sending records that a backend has not acknowledged, from the run's journal.

This room knows journals, plugins and delivery, never jax. It runs on the calling thread.
"""
