"""Adapter of environments of the callback pattern to the interface of a rollout."""

from __future__ import annotations

from typing import Any, final

import jax.numpy as jnp

from metriplex.plugins.interfaces import Environment

_METHODS = ("initial", "transition", "observation", "terminal")


@final
class PatternEnvironment(Environment):
    """Adapt the protocol `initial`, `transition`, `observation`, `terminal`, `truncate`.

    `truncate` and `action_mask` may be missing. An attribute `traceable = False` of the environment
    declares that jax can't trace the methods.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self.traceable = bool(getattr(env, "traceable", True))

    @classmethod
    def accepts(cls, env: object) -> bool:
        """Return True if an object has the methods of the protocol."""
        return all(callable(getattr(env, name, None)) for name in _METHODS)

    def reset(self, key: Any) -> Any:
        """See `Environment.reset`."""
        return self._env.initial(key=key)

    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, Any]:
        """See `Environment.step`; an episode ends if the state is terminal or truncated."""
        state = self._env.transition(state, action, key=key)
        done = jnp.asarray(self._env.terminal(state, key=key), bool)
        truncate = getattr(self._env, "truncate", None)
        if truncate is not None:
            done = done | jnp.asarray(truncate(state), bool)
        return state, done

    def observe(self, state: Any, key: Any) -> Any:
        """See `Environment.observe`."""
        return self._env.observation(state, key=key)

    def action_mask(self, state: Any, key: Any) -> Any:
        """See `Environment.action_mask`."""
        mask = getattr(self._env, "action_mask", None)
        return None if mask is None else mask(state, key=key)
