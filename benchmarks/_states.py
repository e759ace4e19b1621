"""Make the states of a rollout for benchmarks of videos."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from metriplex.video.play.environments import PatternEnvironment
from metriplex.video.play.rollout import rollout

if TYPE_CHECKING:
    from metriplex import Renderer


def states_of(env: Any, renderer: Renderer, count: int) -> list[Any]:
    """Return the drawn parts of `count` states of a rollout with random actions."""

    def policy(_observation: Any, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, env.num_actions)

    play = functools.partial(rollout, PatternEnvironment(env), num_steps=count)
    selected = jax.jit(lambda key: play(policy, key, select=renderer.select))(jax.random.key(0))
    selected = jax.tree.map(np.asarray, selected)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], selected) for i in range(count)]
