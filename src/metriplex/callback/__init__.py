"""`MetricsCallback`, which a training loop calls: it ties the device half to the host half.

Programs trace the device methods; the user's threads call the other ones.
"""
