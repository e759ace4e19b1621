"""rejax: an `eval_callback` that logs each evaluation, and shows the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from metriplex.integrations.evaluation import log_evaluation

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex.callback.callback import MetricsCallback


def eval_callback(
    metrics: MetricsCallback, evaluate: Callable[[Any, Any, Any], Any]
) -> Callable[[Any, Any, Any], Any]:
    """Wraps an algorithm's evaluation so that what it finds is logged.

        algo = algo.replace(eval_callback=eval_callback(metrics, algo.eval_callback))
        train_state, evaluation = jax.jit(algo.train)(key)

    Each evaluation is one record at the environment steps taken so far: mean, least and greatest
    return, mean length, and the algorithm's learning rate. Under `vmap` every seed is a run.
    With `MetricsCallback(video_interval=N, env=GymnaxEnvironment(algo.env, algo.env_params))` every
    N-th one has a video.

    Args:
        metrics: The run. The program that is compiled belongs to it.
        evaluate: The evaluation, which is given the algorithm, the train state and a key. What it
            returns is returned unchanged; if it is a mapping of scalars instead of lengths and
            returns, it is logged as `eval/...`.

    Returns:
        The wrapped evaluation.
    """

    def callback(algo: Any, train_state: Any, rng: jax.Array) -> Any:
        result = evaluate(algo, train_state, rng)
        step = train_state.global_step
        found = result if isinstance(result, Mapping) else _summary(*result)
        log_evaluation(
            metrics,
            step,
            {"eval": found, "train": {"learning_rate": algo.learning_rate}},
            policy=algo.make_act(train_state),
            index=step // _steps_between_evaluations(algo) - algo.skip_initial_evaluation,
            key=rng,
        )
        return result

    return callback


def _summary(lengths: jax.Array, returns: jax.Array) -> dict[str, jax.Array]:
    return {
        "return": jnp.mean(returns),
        "return_min": jnp.min(returns),
        "return_max": jnp.max(returns),
        "length": jnp.mean(lengths),
    }


def _steps_between_evaluations(algo: Any) -> int:
    """`eval_freq`, rounded up to whole iterations as rejax does."""
    size = algo.num_envs * getattr(algo, "num_steps", 1)
    return -(-algo.eval_freq // size) * size
