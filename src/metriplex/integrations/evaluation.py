"""Videos for libraries that carry no state of ours, and only call back after an evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from metriplex import counter, state

if TYPE_CHECKING:
    import jax

    from metriplex.callback import MetricsCallback


def record_video(
    metrics: MetricsCallback,
    step: jax.typing.ArrayLike,
    *,
    policy: Any,
    index: jax.typing.ArrayLike,
    key: jax.Array | None = None,
) -> None:
    """Plays and records a rollout if a video is due; in compiled code, or outside.

    Args:
        metrics: The run; nothing happens if it was constructed without videos.
        step: Environment steps taken so far.
        policy: As for `MetricsCallback.on_iteration`.
        index: Which evaluation it is, from 0; every `video_interval`-th one is recorded.
        key: A PRNG key; None derives one from the index.
    """
    video = metrics.config.video
    if video is None:
        return
    now = replace(
        state.init(metrics.config, 1, None),
        env_steps=counter.add(counter.zero(), step),
        iteration=jnp.asarray(index, jnp.int32),
    )
    video.send(
        metrics.config,
        metrics.handle,
        now,
        policy=policy,
        key=key,
        iteration=now.iteration,
        where=True,
    )
