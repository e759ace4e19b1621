"""Name the adapter of an environment of a known family, for error messages."""

from __future__ import annotations

_ADAPTERS = {
    "gymnax": ("metriplex.integrations.gymnax", "GymnaxEnvironment(env, params)"),
    "brax": ("metriplex.integrations.brax", "BraxEnvironment(env)"),
    "mujoco_playground": ("metriplex.integrations.brax", "BraxEnvironment(env)"),
}
"""Package of an environment's class or base to the module and the call of its adapter."""

_DEEPEST = 10
_INNER = ("unwrapped", "_env", "env")


def adapter_hint(env: object) -> str:
    """Return a sentence that names the adapter of an environment, wrapped or not; empty if none."""
    for layer in _layers(env):
        for base in type(layer).__mro__:
            package = base.__module__.partition(".")[0]
            if package == "metriplex":  # it is adapted already
                return ""
            if package in _ADAPTERS:
                module, call = _ADAPTERS[package]
                return (
                    f"It is an environment of {package}, which needs its adapter: `from {module} "
                    f"import {call.partition('(')[0]}` and pass `env={call}`"
                )
    return ""


def _layers(env: object) -> list[object]:
    layers = [env]
    for layer in layers:  # which grows
        if len(layers) > _DEEPEST:
            break
        for name in _INNER:
            try:
                inner = getattr(layer, name, None)
            except Exception:  # noqa: BLE001, S112 - a property of a foreign class may raise anything
                continue
            if inner is not None and not any(inner is known for known in layers):
                layers.append(inner)
    return layers
