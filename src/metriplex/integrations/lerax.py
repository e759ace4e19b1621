"""lerax: a callback for `algo.learn(callback=...)`, alone or in a list."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
from lerax.callback import AbstractCallback, AbstractCallbackState, AbstractCallbackStepState

from metriplex.device import counter, episodes
from metriplex.errors import ConfigurationError

if TYPE_CHECKING:
    from metriplex.callback.callback import MetricsCallback
    from metriplex.device.state import MetricsState


@final
class StepState(AbstractCallbackStepState):
    """What lerax carries for each environment.

    Attributes:
        episodes: Episode statistics of the one environment.
        steps: uint32 `[1]`, steps that it has taken, modulo 2**32.
    """

    episodes: episodes.EpisodeStats
    steps: jax.Array


@final
class State(AbstractCallbackState):
    """What lerax carries for the training.

    Attributes:
        metrics: The state of the metrics; its episode statistics are those of the step states.
    """

    metrics: MetricsState


@final
class LeraxCallback(AbstractCallback):
    """Logs a training of lerax.

        with MetricsCallback(env=env, policy=policy, hparams={"ppo": algo}) as metrics:
            policy = algo.learn(env, policy, 2**16, key=key, callback=LeraxCallback(metrics))

    lerax compiles `learn` once for any number of runs: only the run's handle is an argument.

    Args:
        metrics: The run. Returns are those of the rewards that the environment gave, without the
            values that lerax adds to them where an episode is cut off.

    Raises:
        ConfigurationError: It was constructed with `episode_stats=True`: lerax has no place where
            the statistics of an iteration could start anew; or with `transport="drain"`: `learn`
            gives back no state from which records could be taken.
    """

    metrics: MetricsCallback

    def __init__(self, metrics: MetricsCallback) -> None:
        if metrics.config.episode_stats:
            raise ConfigurationError(
                "`episode_stats=True` can't be had from lerax, which keeps what its steps count "
                "from one iteration to the next: construct the `MetricsCallback` without it"
            )
        if metrics.config.ring:
            raise ConfigurationError(
                '`transport="drain"` can\'t be had from lerax, whose `learn` keeps the state of '
                "callbacks to itself: construct the `MetricsCallback` without it"
            )
        self.metrics = jax.tree.map(jnp.asarray, metrics)  # what is no jax array would be static

    def reset(self, ctx: Any, *, key: jax.Array) -> State:  # noqa: ARG002 - lerax's protocol
        """The state at the start of a training."""
        return State(self.metrics.init(1))

    def step_reset(self, ctx: Any, *, key: jax.Array) -> StepState:  # noqa: ARG002
        """The state of one environment at the start of a training."""
        return StepState(episodes.init_stats(1, window=False), jnp.zeros(1, jnp.uint32))

    def on_step(self, ctx: Any, *, key: jax.Array) -> StepState:  # noqa: ARG002
        """Takes in one step of one environment."""
        # lerax passes on a reward that holds the value of what comes after a time limit
        reward = ctx.locals.get("reward", ctx.reward)
        stats = episodes.update_stats(
            ctx.state.episodes, reward[None], ctx.done[None], alpha=self.metrics.config.alpha
        )
        return StepState(stats, ctx.state.steps + 1)

    def on_iteration(self, ctx: Any, *, key: jax.Array) -> State:
        """Logs one record."""
        before = ctx.state.metrics
        now = _gather(before, ctx.step_state)
        now = self.metrics.on_iteration(
            now,
            training_log=ctx.training_log,
            opt_state=ctx.opt_state,
            policy=ctx.policy,
            key=key,
        )
        return State(replace(now, episodes=before.episodes))

    def on_training_start(self, ctx: Any, *, key: jax.Array) -> State:  # noqa: ARG002
        """Marks the start, each time that the compiled training is run."""
        return State(self.metrics.on_training_start(ctx.state.metrics))

    def on_training_end(self, ctx: Any, *, key: jax.Array) -> State:  # noqa: ARG002
        """Sends what is buffered, and marks the end."""
        return State(self.metrics.on_training_end(ctx.state.metrics))

    def continue_training(self, ctx: Any, *, key: jax.Array) -> jax.Array:  # noqa: ARG002
        """Always."""
        return jnp.array(True)


def _gather(state: MetricsState, step_state: StepState) -> MetricsState:
    """The state with the statistics of all environments, and the steps that they have taken."""
    stats, steps = jax.tree.map(
        lambda leaf: leaf.reshape(-1), (step_state.episodes, step_state.steps)
    )
    taken = jnp.sum(steps, dtype=jnp.uint32) - state.env_steps.low  # modulo 2**32, as both are
    return replace(state, episodes=stats, env_steps=counter.add(state.env_steps, taken))
