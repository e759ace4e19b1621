"""The one crossing from the device to the host: rows of words, packed, sent, received and decoded.

The bridge knows a run only as an integer handle. `emit`, `packing` and `host_function` are traced
into programs; `receiver` decodes rows on the receiver thread; `rows` is free of jax.
"""
