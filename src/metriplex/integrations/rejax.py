"""Log the evaluations of rejax, and record videos of the agent."""

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
    """Return an evaluation that also logs the results of an algorithm's evaluation.

        algo = algo.replace(eval_callback=eval_callback(metrics, algo.eval_callback))
        train_state, evaluation = jax.jit(algo.train)(key)

    Each evaluation logs one record at the current environment step: the mean, minimum and maximum
    return, the mean length, and the algorithm's learning rate. Under `vmap` every seed is a lane.
    With `MetricsCallback(video_interval=N, env=GymnaxEnvironment(algo.env, algo.env_params))` every
    N-th evaluation has a video.

    Args:
        metrics: The run; the compiled program logs to this run only.
        evaluate: The evaluation; its arguments are the algorithm, the train state and a key. Its
            result is returned unchanged: lengths and returns, or a mapping of scalars, which are
            logged as `eval/...`.
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
    """Return `eval_freq`, rounded up to whole iterations like rejax does."""
    size = algo.num_envs * getattr(algo, "num_steps", 1)
    return -(-algo.eval_freq // size) * size
