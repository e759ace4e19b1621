"""Assembly of a run from what its user asked for."""

from __future__ import annotations

import collections

import jax


def name_devices() -> str:
    """This process's devices, such as `8 x NVIDIA H100`; initialises jax."""
    kinds = collections.Counter(device.device_kind for device in jax.local_devices())
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
