"""Define the state that a training loop carries, and make and send its rows, on the device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metriplex.bridge.emit import abort, emit, mark
from metriplex.bridge.packing import NO_SEQUENCE, Header, Kind, Value, make_schema, pack
from metriplex.device import counter, episodes
from metriplex.device.axes import gate, manual_axes, sharded_like, split_axes
from metriplex.device.learning_rate import TAG as LEARNING_RATE
from metriplex.device.learning_rate import learning_rates
from metriplex.device.summary import summarize
from metriplex.device.training_log import flatten
from metriplex.errors import LoggingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax.typing import ArrayLike, DTypeLike

    from metriplex.device.config import Config

NO_LANE = -1


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MetricsState:
    """The state of the metrics on the device. Its shapes never change.

    Attributes:
        episodes: Episode statistics of `[num_envs]` environments.
        env_steps: Environment steps taken so far, exact to 2**64.
        iteration: int32 `[]`, the number of finished iterations.
        execution: int32 `[]`, the number of the execution that made the state.
        sequence: uint32 `[]`, the number of rows made so far.
        lane: int32 `[]`, the lane that `init` was given; None without one.
        buffer: uint32 `[buffer, buffer_width]`, the rows that are not sent yet.
        buffered: int32 `[]`, the number of rows in the buffer; for a ring, the number of rows ever
            written to it.
    """

    episodes: episodes.EpisodeStats
    env_steps: counter.Counter
    iteration: jax.Array
    execution: jax.Array
    sequence: jax.Array
    lane: jax.Array | None
    buffer: jax.Array
    buffered: jax.Array


def init(
    config: Config, execution: jax.Array, num_envs: int, lane: jax.Array | int | None
) -> MetricsState:
    """Return the state before the first step; see `MetricsCallback.init`."""
    state = MetricsState(
        episodes=episodes.init_stats(num_envs, window=config.episode_stats),
        env_steps=_counter(config.first_step),
        iteration=_zero(jnp.int32) + config.first_iteration,
        execution=_zero(jnp.int32) + execution,
        sequence=_zero(jnp.uint32),
        lane=None if lane is None else jnp.array(lane, jnp.int32),
        buffer=jnp.zeros((config.buffer, config.buffer_width if config.buffer else 0), jnp.uint32),
        # The first row fills a buffer of rows that are marked as invalid, so it is sent at once:
        # the host knows of the program, whatever stays in its buffer.
        buffered=_zero(jnp.int32) + (0 if config.ring else max(config.buffer - 1, 0)),
    )
    axes = manual_axes()
    if not axes:
        return state
    if config.ring:
        raise LoggingError(
            'with `transport="drain"` the state has to leave the program, which `shard_map` and '
            "`pmap` would do a device: use `jit` over sharded arrays, or the default transport"
        )
    # Under shard_map the carry of a scan must vary over the same mesh axes before and after. A
    # selection between equal values varies over the axes of its condition.
    never = lax.axis_index(axes) < 0
    return jax.tree.map(lambda leaf: jnp.where(never, leaf, leaf), state)


def _counter(first: int) -> counter.Counter:
    return counter.add(counter.zero(), first) if first else counter.zero()


def _zero(dtype: DTypeLike) -> jax.Array:
    # Unlike `jnp.zeros(())`, this zero is on the current mesh. The carry of a scan must be on it if
    # the carry gets lanes on a sharded axis.
    return jnp.zeros(1, dtype).reshape(())


def on_step(
    config: Config, state: MetricsState, reward: ArrayLike, done: ArrayLike
) -> MetricsState:
    """Return the state after one step or a rollout; see `MetricsCallback.on_step`."""
    stats = episodes.update_stats(state.episodes, reward, done, alpha=config.alpha)
    stats = jax.tree.map(sharded_like, stats, state.episodes)
    steps = jnp.size(reward)
    for axis in _axes(config, state)[0]:
        steps *= lax.axis_size(axis)
    return replace(state, episodes=stats, env_steps=counter.add(state.env_steps, steps))


def on_iteration(
    config: Config,
    run: jax.Array,
    state: MetricsState,
    *,
    training_log: Any,
    opt_state: Any,
    iteration: ArrayLike | None,
    key: jax.Array | None,
    where: jax.Array | bool,
) -> MetricsState:
    """Make and send the iteration's row; see `MetricsCallback.on_iteration`."""
    values, present = _measure(config, state, training_log, opt_state)
    due: jax.Array | bool = where
    if config.log_every > 1:
        due = jnp.logical_and(due, (state.iteration + 1) % config.log_every == 0)
    number = state.iteration if iteration is None else jnp.asarray(iteration)
    if jnp.ndim(number) != 0 or not jnp.issubdtype(number.dtype, jnp.integer):
        raise LoggingError(
            f"`iteration` must be one integer; got {number.dtype} {list(number.shape)}"
        )
    if key is not None:
        number = number + _zero_from(key)
    row = make_row(config, run, state, Kind.RECORD, values, present, number.astype(jnp.int32))
    state, unsent = _send(config, state, row, due)
    if config.abort:
        # `unsent` contains the row. The host drops rows that it already has.
        abort(
            unsent,
            where=jnp.logical_and(_any_nonfinite(values, present), due),
            transport=config.calls,
        )
    if config.episode_stats:
        state = replace(state, episodes=episodes.reset_window(state.episodes, due))
    return replace(state, iteration=state.iteration + 1)


def on_training_start(
    config: Config, run: jax.Array, execution: jax.Array, state: MetricsState
) -> MetricsState:
    """Send a row that reports the start of a program; see `MetricsCallback.on_training_start`."""
    # The row is unnumbered: under vmap the state may not differ between lanes yet, and one row for
    # all lanes would take a number that each lane waits for.
    state = replace(
        state,
        execution=(state.execution & 0) + execution,
        sequence=state.sequence & 0,
    )
    send_unnumbered(config, run, state, Kind.START, {}, state.iteration)
    return state


def send_unnumbered(
    config: Config,
    run: jax.Array,
    state: MetricsState,
    kind: Kind,
    values: Mapping[str, Value],
    iteration: jax.Array,
    where: jax.Array | bool = True,
) -> None:
    """Send a row that has no order relative to the records."""
    row = make_row(config, run, state, kind, values, {}, iteration)
    row = row.at[Header.SEQUENCE].set(jnp.uint32(NO_SEQUENCE))
    emit(row[None], where=_gate(config, state, where), transport=config.calls)


def on_training_end(config: Config, run: jax.Array, state: MetricsState) -> MetricsState:
    """Send the buffered rows and a row that reports the end of the program."""
    if config.ring:
        return state
    if config.buffer:
        emit(
            _valid_rows(state),
            where=_gate(config, state, state.buffered > 0),
            transport=config.calls,
        )
        state = replace(state, buffered=jnp.zeros_like(state.buffered))
    return _send_now(config, state, make_row(config, run, state, Kind.END, {}, {}, state.iteration))


def log(config: Config, run: jax.Array, step: ArrayLike, values: Mapping[str, Value]) -> None:
    """Send values at a step of the caller's choice, in no order; see `MetricsCallback.log`."""
    exact = counter.from_step(step)
    header = dict.fromkeys(Header, -1) | {  # -1 is `NO_SEQUENCE`, and no iteration, lane or device
        Header.RUN: run[0],
        Header.VALID: 1,
        Header.STEP_LOW: exact.low,
        Header.STEP_HIGH: exact.high,
        Header.DEVICES: 1,
    }
    axes = manual_axes()
    where = lax.axis_index(axes) == 0 if axes else True
    row = pack(make_schema(Kind.RECORD, values), header, values, {})
    emit(row[None], where=where, transport=config.calls)


def _measure(
    config: Config, state: MetricsState, training_log: Any, opt_state: Any
) -> tuple[dict[str, Value], dict[str, jax.Array]]:
    """Return the iteration's values by tag, and a bool by tag for values that may be absent."""
    log = {} if training_log is None else flatten(training_log, reduce=config.reduce)
    axes = _axes(config, state)[0]
    values, present = summarize(state.episodes, log, axes, episode_stats=config.episode_stats)
    if LEARNING_RATE not in values and (opt_state is not None or config.learning_rate is not None):
        values |= learning_rates(opt_state, config.learning_rate)
    return values, present


def make_row(
    config: Config,
    run: jax.Array,
    state: MetricsState,
    kind: Kind,
    values: Mapping[str, Value],
    present: Mapping[str, jax.Array],
    iteration: jax.Array,
) -> jax.Array:
    """Return the lane's next row, uint32 `[words]`, with values and presence by tag."""
    others = _axes(config, state)[1]
    header = {
        Header.RUN: run[0],
        Header.VALID: 1,
        Header.SEQUENCE: state.sequence,
        Header.STEP_LOW: state.env_steps.low,
        Header.STEP_HIGH: state.env_steps.high,
        Header.ITERATION: iteration,
        Header.LANE: NO_LANE if state.lane is None else state.lane,
        Header.DEVICE: lax.axis_index(others) if others else -1,
        Header.DEVICES: lax.axis_size(others) if others else 1,
        Header.EXECUTION: state.execution,
        Header.DISPATCH: run[1],
    }
    return pack(make_schema(kind, values, tuple(present)), header, values, present)


def _send(
    config: Config, state: MetricsState, row: jax.Array, due: jax.Array | bool
) -> tuple[MetricsState, jax.Array]:
    """Send a row, or keep it in the buffer until the buffer is full.

    Returns:
        The new state, and uint32 `[rows, words]`: the lane's rows, this one included, that would be
        lost if the program stopped now.
    """
    if not config.buffer:
        return _send_now(config, state, row, due), mark(row[None], jnp.asarray(due)[None])
    place, kept = state.buffered, _pad(config, row)
    if config.ring:
        place %= config.buffer
        kept = jnp.where(due, kept, state.buffer[place])
    # Outside of a ring the place is free, so a row that is not due is overwritten by the next one.
    state = _count(
        replace(
            state,
            buffer=lax.dynamic_update_index_in_dim(state.buffer, kept, place, 0),
            buffered=state.buffered + jnp.asarray(due, jnp.int32),
        ),
        row,
        due,
    )
    if config.ring:
        return state, row[None]
    unsent = _valid_rows(state)
    full = state.buffered == config.buffer
    emit(state.buffer, where=_gate(config, state, full), transport=config.calls)
    return replace(state, buffered=jnp.where(full, 0, state.buffered)), unsent


def _send_now(
    config: Config, state: MetricsState, row: jax.Array, due: jax.Array | bool = True
) -> MetricsState:
    emit(row[None], where=_gate(config, state, due), transport=config.calls)
    return _count(state, row, due)


def _count(state: MetricsState, row: jax.Array, due: jax.Array | bool) -> MetricsState:
    """Count the row, and make the next rows depend on it: if it has lanes, they have lanes too."""
    return replace(state, sequence=state.sequence + jnp.asarray(due, jnp.uint32) + (row[0] & 0))


def _pad(config: Config, row: jax.Array) -> jax.Array:
    missing = config.buffer_width - row.size
    if missing < 0:
        raise LoggingError(
            f"a row of this training log takes {row.size} words, and `buffer_width` is "
            f"{config.buffer_width}: construct the callback with `buffer_width={row.size}`"
        )
    return jnp.pad(row, (0, missing))


def _valid_rows(state: MetricsState) -> jax.Array:
    """Return the buffer with the rows that were sent before marked as invalid."""
    return mark(state.buffer, jnp.arange(len(state.buffer)) < state.buffered)


def _axes(config: Config, state: MetricsState) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return split_axes(config.axis_name, has_lane=state.lane is not None)


def _gate(config: Config, state: MetricsState, where: jax.Array | bool) -> jax.Array | bool:
    return gate(config.axis_name, where, has_lane=state.lane is not None)


def _zero_from(key: jax.Array) -> jax.Array:
    """Return an int32 0 that depends on a key, so that lanes that differ only in it stay apart."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return (lax.stop_gradient(key).ravel()[0] & 0).astype(jnp.int32)


def _any_nonfinite(values: Mapping[str, Value], present: Mapping[str, jax.Array]) -> jax.Array:
    found = jnp.zeros((), bool)
    for tag, value in values.items():
        if not jnp.issubdtype(value.dtype, jnp.floating):
            continue
        # A float64 constant of the host is checked there: jax without x64 would make it float32.
        library = np if isinstance(value, np.ndarray) else jnp
        is_rate = tag == LEARNING_RATE or tag.startswith(f"{LEARNING_RATE}/")
        bad = library.isinf(value) if is_rate else ~library.isfinite(value)
        found |= jnp.logical_and(lax.stop_gradient(bad), present.get(tag, True))
    return found
