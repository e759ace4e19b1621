"""Pack rows on the device, send them to the host, and receive and decode them there.

The bridge knows a run only as an integer handle. Programs trace `emit`, `packing` and
`host_function`; `receiver` decodes rows on the receiver thread; `rows` never imports jax.
"""
