"""The part of a compiled program that plays evaluation rollouts and sends them to the host."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import eval_jaxpr

from metriplex.bridge.emit import emit
from metriplex.bridge.packing import NO_SEQUENCE, Header, Kind
from metriplex.bridge.tracing import is_tracing
from metriplex.device.axes import gate
from metriplex.device.config import Config  # noqa: TC001 - part of public annotations
from metriplex.device.state import NO_LANE, MetricsState, make_row
from metriplex.plugins.interfaces import Environment  # noqa: TC001 - part of public annotations
from metriplex.video.play.payloads import Parts, Play, States, name, register
from metriplex.video.play.rollout import rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from jax.typing import ArrayLike

logger = logging.getLogger("metriplex")


@final
@dataclass(frozen=True)
class VideoProgram:
    """Settings of a callback's videos that shape the compiled program; equal ones share it."""

    identity: Hashable  # equal for two runs that show the same environment in the same way
    interval: int  # iterations between two videos
    num_steps: int
    env: Environment = field(compare=False)
    select: Callable[[Any], Any] = field(compare=False)
    _warned: set[str] = field(default_factory=set, compare=False, repr=False)

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
        """Play and send a rollout in every `interval`-th iteration, the first one included.

        The rollout is a branch of the program that costs nothing in the other iterations. With
        vmapped lanes the first lane is played, and the branch stays a branch under `vmap`.

        `state` is the state at the end of the iteration, and `run` the run handle. `key` is typed
        or raw; None derives a key from the iteration. `iteration` is the index as counted by the
        user; None takes the state's count. `where=False` sends nothing.
        """
        if policy is None:
            self._warn("`on_iteration` was given no `policy=`, which evaluation videos need")
            return
        due = jnp.logical_and(where, state.iteration % self.interval == 0)
        if state.lane is not None:
            due = jnp.logical_and(due, state.lane == 0)
        if not is_tracing() and not due:
            return
        number = state.iteration if iteration is None else iteration

        def record(lane: jax.Array) -> None:
            values = self._payload(policy, _rollout_key(key, state.iteration))
            at = jnp.asarray(number, jnp.int32)
            row = make_row(config, run, state, Kind.VIDEO, values, {}, at)
            row = row.at[Header.SEQUENCE].set(jnp.uint32(NO_SEQUENCE))
            row = row.at[Header.LANE].set(lax.bitcast_convert_type(lane, jnp.uint32))
            where = gate(config.axis_name, True, has_lane=state.lane is not None)
            emit(row[None], where=where, transport=config.calls)

        lane = jnp.asarray(NO_LANE if state.lane is None else state.lane, jnp.int32)
        try:
            if is_tracing():
                _branch(due, lane, record)
            else:
                record(lane)
        except Exception as error:  # noqa: BLE001 - videos never stop a training
            self._warn(_reason(error))

    def _payload(self, policy: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Return named arrays: the states, or the policy if the host has to play the rollout."""
        if self.env.traceable:
            try:
                return self._states(policy, key)
            except Exception as error:  # noqa: BLE001 - an environment may raise anything
                self._warn(
                    f"the rollout can't be traced ({_reason(error)}): the policy's parameters are "
                    f"sent to the host, which plays it step by step",
                    prefix="evaluation videos take longer",
                )
        parts, arrays = Parts.split((policy, key))
        x64 = bool(jnp.result_type(float) == jnp.float64)
        number = register(Play(self.env, self.select, self.num_steps, parts, x64))
        return name(number, [array[None] for array in map(jnp.asarray, arrays)])

    def _states(self, policy: Any, key: jax.Array) -> dict[str, jax.Array]:
        play = functools.partial(rollout, self.env, num_steps=self.num_steps, select=self.select)
        if is_tracing():
            selected = play(policy, key)
        else:  # a Python loop must not compile the rollout each time
            parts, arrays = Parts.split(policy)
            selected = _compiled(self, parts)(arrays, key)
        leaves, structure = jax.tree.flatten(selected)
        if not leaves:
            raise ValueError("`Renderer.select` gives no array")
        return name(register(States(structure)), leaves)

    def _warn(self, reason: str, prefix: str = "no evaluation videos") -> None:
        """Log a warning about all videos of a program, once per reason."""
        if reason not in self._warned:
            self._warned.add(reason)
            logger.warning("%s: %s; training and all other logging go on", prefix, reason)


def _branch(due: jax.Array, lane: jax.Array, record: Callable[[jax.Array], None]) -> None:
    """Run `record` if it is due, as a branch of the program.

    `vmap` turns a branch into code that always runs for all lanes, so the rule of this function
    takes the first lane before the branch.
    """
    traced = jax.make_jaxpr(record)(lane)  # finds the arrays that `record` closes over

    @jax.custom_batching.custom_vmap
    def branch(due: jax.Array, lane: jax.Array, *taken: jax.Array) -> tuple[()]:
        def run() -> None:
            eval_jaxpr(traced.jaxpr, taken, lane)

        lax.cond(due, run, lambda: None)
        return ()

    @branch.def_vmap
    def _(_size: int, batched: Sequence[bool], *arrays: jax.Array) -> tuple[tuple[()], tuple[()]]:
        due, lane, *taken = (
            array[0] if is_batched else array
            for array, is_batched in zip(arrays, batched, strict=True)
        )
        return branch(due, jnp.where(lane < 0, 0, lane), *taken), ()

    branch(due, lane, *traced.consts)


@functools.lru_cache(maxsize=2)
def _compiled(program: VideoProgram, policy: Parts) -> Callable[..., Any]:
    """Return the compiled rollout for policies that differ in their arrays alone."""

    @jax.jit
    def play(arrays: Sequence[jax.Array], key: jax.Array) -> Any:
        return rollout(
            program.env,
            policy.join(arrays),
            key,
            num_steps=program.num_steps,
            select=program.select,
        )

    return play


def _rollout_key(key: jax.Array | None, iteration: jax.Array) -> jax.Array:
    if key is None:
        return jax.random.fold_in(jax.random.key(0), iteration)
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def _reason(error: Exception) -> str:
    """Return the type and the first line of an error; messages of jax are long."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
