"""Delivery: from a run to one backend, by calls that wait in a bounded queue.

This room knows the records, the plugins and the journal, never jax. Each backend and the journal
have a worker thread of their own. A replay delivers on the calling thread.
"""
