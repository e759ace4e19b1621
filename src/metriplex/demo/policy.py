"""A small actor-critic in plain JAX."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import jax
import jax.numpy as jnp
from jax import lax

Layers: TypeAlias = tuple[tuple[jax.Array, jax.Array], ...]
"""Weight `[inputs, outputs]` and bias `[outputs]` of each layer."""


def init_mlp(key: jax.Array, sizes: Sequence[int], output_scale: float) -> Layers:
    """Draw a float32 multi-layer perceptron with orthogonal weights and zero biases.

    `sizes` are the widths of the input, of every hidden layer and of the output. The gain of the
    last layer is `output_scale`, the gain of the other layers is √2.
    """
    gains = [2.0**0.5] * (len(sizes) - 2) + [output_scale]
    keys = jax.random.split(key, len(gains))
    return tuple(
        (gain * orthogonal(k, n, m), jnp.zeros(m, jnp.float32))
        for k, n, m, gain in zip(keys, sizes[:-1], sizes[1:], gains, strict=True)
    )


def orthogonal(key: jax.Array, rows: int, columns: int) -> jax.Array:
    """Draw a matrix with orthonormal columns (or rows, if there are fewer rows than columns).

    The Gram-Schmidt process runs twice on each column, which is enough for full precision.
    `jax.nn.initializers.orthogonal` uses LAPACK's QR decomposition instead; two vmapped ones at
    once can deadlock (seen in jaxlib 0.10.2 on two cores).

    References:
        Giraud, Langou and Rozložník, "The loss of orthogonality in the Gram-Schmidt
        orthogonalization process" (2005).
    """
    tall = jax.random.normal(key, (max(rows, columns), min(rows, columns)))

    def add_column(i: jax.Array, basis: jax.Array) -> jax.Array:
        column = tall[:, i]
        for _ in range(2):
            column -= basis @ (basis.T @ column)
        return basis.at[:, i].set(column / jnp.linalg.norm(column))

    basis = lax.fori_loop(0, tall.shape[1], add_column, jnp.zeros_like(tall))
    return basis if rows >= columns else basis.T


def apply_mlp(layers: Layers, x: jax.Array) -> jax.Array:
    """Apply a perceptron with tanh between its layers: `[..., inputs]` to `[..., outputs]`."""
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = jnp.tanh(x @ w + b)
    return x @ weight + bias


def mask_logits(logits: jax.Array, action_mask: jax.Array | None) -> jax.Array:
    """Set the logits of forbidden actions to the lowest finite value; gradients stay finite.

    The mask is bool `[..., actions]`, True where allowed; None allows all.
    """
    if action_mask is None:
        return logits
    return jnp.where(action_mask, logits, jnp.finfo(logits.dtype).min)


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class ActorCritic:
    """A categorical policy and a value function; a pytree of their parameters."""

    name: ClassVar[str] = "PPO"

    actor: Layers  # from the observation to one logit per action
    critic: Layers  # from the observation to the value

    @classmethod
    def init(
        cls, key: jax.Array, observation_size: int, num_actions: int, hidden: Sequence[int]
    ) -> ActorCritic:
        """Draw the parameters of a nearly uniform policy and of values near zero."""
        actor_key, critic_key = jax.random.split(key)
        return cls(
            actor=init_mlp(actor_key, [observation_size, *hidden, num_actions], 0.01),
            critic=init_mlp(critic_key, [observation_size, *hidden, 1], 1.0),
        )

    def reset(self, *, key: jax.Array | None = None) -> None:
        """Return None, the state at the start of an episode: the policy has no memory."""
        del key

    def __call__(
        self,
        state: None,
        observation: jax.Array,
        *,
        key: jax.Array | None = None,
        action_mask: jax.Array | None = None,
    ) -> tuple[None, jax.Array]:
        """Choose actions, int32 `[...]`, for observations `[..., observation]`.

        A key draws the actions; without a key, the most likely actions are taken. The state is
        None.
        """
        logits = self.logits(observation, action_mask)
        if key is None:
            return state, jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return state, jax.random.categorical(key, logits).astype(jnp.int32)

    def logits(self, observation: jax.Array, action_mask: jax.Array | None = None) -> jax.Array:
        """Return the unnormalised log-probabilities of the actions, `[..., actions]`."""
        return mask_logits(apply_mlp(self.actor, observation), action_mask)

    def value(self, observation: jax.Array) -> jax.Array:
        """Return the expected discounted return of each observation, `[...]`."""
        return jnp.squeeze(apply_mlp(self.critic, observation), axis=-1)
