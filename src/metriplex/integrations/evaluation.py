"""Log evaluations of libraries whose training loop carries no `MetricsState`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from metriplex.bridge.emit import emit
from metriplex.bridge.packing import Kind
from metriplex.device import counter, state
from metriplex.device.axes import gate
from metriplex.device.training_log import flatten
from metriplex.errors import LoggingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax

    from metriplex.callback.callback import MetricsCallback
    from metriplex.device.state import MetricsState


def log_evaluation(
    metrics: MetricsCallback,
    step: jax.typing.ArrayLike,
    values: Mapping[str, Any],
    *,
    policy: Any,
    index: jax.typing.ArrayLike,
    key: jax.Array | None = None,
) -> None:
    """Log an evaluation inside compiled code: one record, and a video if one is due.

    Records are ordered by `index`; a record waits for its predecessor until the next `flush`.

    Args:
        metrics: The run.
        step: Environment steps taken so far.
        values: Tag to scalar, which may be nested.
        policy: As for `MetricsCallback.on_iteration`.
        index: Number of the evaluation, from 0; every `video_interval`-th one has a video.
        key: A PRNG key for the video; None derives one from the index.

    Raises:
        LoggingError: The run was constructed with `transport="drain"`.
    """
    if metrics.config.ring:
        raise LoggingError(
            '`transport="drain"` takes records from a state that the training loop carries, and an '
            "evaluation has none: construct the `MetricsCallback` without it"
        )
    now = _state(metrics, step, index)
    flat = flatten(values, prefix="", reduce=metrics.config.reduce)
    row = state.make_row(metrics.config, metrics.handle, now, Kind.RECORD, flat, {}, now.iteration)
    where = gate(metrics.config.axis_name, True, has_lane=False)
    emit(row[None], where=where, transport=metrics.config.calls)
    _send_video(metrics, now, policy, key)


def record_video(
    metrics: MetricsCallback, step: jax.typing.ArrayLike, *, policy: Any, index: int
) -> None:
    """Record a video of a rollout if one is due, outside of compiled code.

    Args:
        metrics: The run; if it was constructed without videos, nothing is recorded.
        step: Environment steps taken so far.
        policy: As for `MetricsCallback.on_iteration`.
        index: Number of the evaluation, from 0; every `video_interval`-th one is recorded.
    """
    _send_video(metrics, _state(metrics, step, index), policy, None)


def _state(
    metrics: MetricsCallback, step: jax.typing.ArrayLike, index: jax.typing.ArrayLike
) -> MetricsState:
    """Return the state that a training loop would have carried to this evaluation."""
    return replace(
        state.init(metrics.config, jnp.int32(0), 1, None),
        env_steps=counter.add(counter.zero(), step),
        iteration=jnp.asarray(index, jnp.int32),
        sequence=jnp.asarray(index, jnp.uint32),
    )


def _send_video(
    metrics: MetricsCallback, now: MetricsState, policy: Any, key: jax.Array | None
) -> None:
    video = metrics.video
    if video is not None:
        video.send(
            metrics.config,
            metrics.handle,
            now,
            policy=policy,
            key=key,
            iteration=now.iteration,
            where=True,
        )
