"""Adapter of policies with or without state, keys and masks to one form."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable

_KEYS = frozenset({"key", "rng", "rng_key", "prng_key", "seed"})
_MASKS = frozenset({"action_mask", "mask"})


@final
class Actor(NamedTuple):
    """A policy in one form."""

    reset: Callable[[Any], Any]
    """Maps a key to the policy's state at the start of an episode, None without state."""

    act: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    """Maps state, observation, key and action mask to the new state and the action."""


def adapt_policy(policy: Any) -> Actor:
    """Adapt a policy by its signature; raise `TypeError` if the policy is not callable.

    A policy with a method `reset` is a policy of the callback pattern: `reset(key=)` returns a
    state, and `policy(state, observation, key=, action_mask=)` returns a state and an action. Any
    other policy gets the observation and returns an action. The key is passed to a parameter named
    `key` (`rng`, `rng_key`, `prng_key`, `seed`), the mask to `action_mask` (`mask`).
    """
    if not callable(policy):
        raise TypeError(f"a policy must be callable to be shown; got `{type(policy).__name__}`")
    reset = getattr(policy, "reset", None)
    if callable(reset):
        return Actor(
            lambda key: reset(**_accepted(reset, key=key)),
            lambda state, observation, key, mask: policy(
                state, observation, **_accepted(policy, key=key, mask=mask)
            ),
        )
    return Actor(
        lambda _key: None,
        lambda state, observation, key, mask: (
            state,
            policy(observation, **_accepted(policy, key=key, mask=mask)),
        ),
    )


def _accepted(function: Callable[..., Any], *, key: Any, mask: Any = None) -> dict[str, Any]:
    """Return the arguments for which a function has parameters."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    given = dict.fromkeys(_KEYS, key) | (dict.fromkeys(_MASKS, mask) if mask is not None else {})
    accepted = {
        name: given[name]
        for name, parameter in parameters.items()
        if name in given and parameter.kind is not parameter.POSITIONAL_ONLY
    }
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        accepted.setdefault("key", key)
    return accepted
