"""What a training loop touches: `MetricsCallback`, which ties the device half to the host half.

Programs trace the methods on the device; the user's thread calls the rest.
"""
