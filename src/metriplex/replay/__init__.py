"""Replay: sending what a backend has not acknowledged of a run, from the run's journal.

This room knows journals, plugins and delivery, never jax. Commands call it from the user's thread.
"""
