"""The part of a compiled program that plays an evaluation episode and sends what drawing needs."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
from jax import lax

from metriplex.packing import Kind
from metriplex.rendering import Environment  # noqa: TC001 - part of public annotations
from metriplex.state import Config, MetricsState, send_unnumbered
from metriplex.video.rollout import rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from jax.typing import ArrayLike

logger = logging.getLogger("metriplex")

_structures: dict[jax.tree_util.PyTreeDef, int] = {}
_by_number: list[jax.tree_util.PyTreeDef] = []


@final
@dataclass(frozen=True)
class VideoProgram:
    """What of a callback's videos shapes the compiled program; equal ones share it.

    Attributes:
        identity: Equal for two runs that show the same environment in the same way.
        interval: Iterations between two videos.
        num_steps: Steps of a video.
        env: The environment, adapted.
        select: What is sent of each state.
    """

    identity: Hashable
    interval: int
    num_steps: int
    env: Environment = field(compare=False)
    select: Callable[[Any], Any] = field(compare=False)

    def send(
        self,
        config: Config,
        run: jax.Array,
        state: MetricsState,
        *,
        policy: Any,
        key: jax.Array | None,
        iteration: ArrayLike | None,
        where: jax.Array | bool,
    ) -> None:
        """Plays and sends a rollout in every `interval`-th iteration, the first one included.

        The rollout is a branch of its own in the program, which costs nothing in the others.

        Args:
            config: The callback's.
            run: The run handle.
            state: The state at the end of the iteration.
            policy: The current policy.
            key: PRNG key, of either kind; None derives one from the iteration.
            iteration: As the user counts; None for the state's own count.
            where: Whether to log at all.
        """
        if policy is None:
            _warn_once("`on_iteration` was given no `policy=`, which evaluation videos need")
            return
        number = jnp.asarray(state.iteration if iteration is None else iteration, jnp.int32)
        due = jnp.logical_and(where, state.iteration % self.interval == 0)

        def record() -> None:
            values = self._play(policy, _rollout_key(key, state.iteration))
            if values:
                send_unnumbered(config, run, state, Kind.VIDEO, values, number, due)

        lax.cond(due, record, lambda: None)

    def _play(self, policy: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Arrays `[num_steps, ...]` by name, from which `unflatten` makes what drawing needs."""
        try:
            selected = rollout(self.env, policy, key, num_steps=self.num_steps, select=self.select)
        except Exception as error:  # noqa: BLE001 - videos never stop a training
            _warn_once(f"the rollout can't be traced ({type(error).__name__}: {error})")
            return {}
        leaves, structure = jax.tree.flatten(selected)
        if structure not in _structures:
            _structures[structure] = len(_by_number)
            _by_number.append(structure)
        number = _structures[structure]
        return {f"{number}/{index}": leaf for index, leaf in enumerate(leaves)}


def frames_of(values: Mapping[str, Any]) -> list[Any]:
    """What was selected of a rollout, frame by frame, from the arrays that reached the host.

    Taken apart here, since the process that draws may not know the classes that states are of as
    pytrees: those of a user's script are pickled by value.

    Returns:
        For each frame the structure that `Renderer.select` gave, of NumPy arrays.
    """
    structure = _by_number[int(next(iter(values)).split("/", 1)[0])]
    return [jax.tree.unflatten(structure, leaves) for leaves in zip(*values.values(), strict=True)]


def _rollout_key(key: jax.Array | None, iteration: jax.Array) -> jax.Array:
    if key is None:
        return jax.random.fold_in(jax.random.key(0), iteration)
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


@functools.cache
def _warn_once(reason: str) -> None:
    logger.warning("no evaluation videos: %s; training and all other logging go on", reason)
