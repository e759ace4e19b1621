"""Log lerax trainings with a callback for `algo.learn(callback=...)`, alone or in a list."""

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
    """The state that lerax carries for each environment.

    Attributes:
        episodes: Episode statistics of the environment.
        steps: Steps taken in the environment, uint32 `[1]`, modulo 2**32.
    """

    episodes: episodes.EpisodeStats
    steps: jax.Array


@final
class State(AbstractCallbackState):
    """The state that lerax carries for the training.

    Attributes:
        metrics: State of the metrics; the step states carry the episode statistics instead.
    """

    metrics: MetricsState


@final
class LeraxCallback(AbstractCallback):
    """Log a training of lerax.

        with MetricsCallback(env=env, policy=policy, hparams={"ppo": algo}) as metrics:
            policy = algo.learn(env, policy, 2**16, key=key, callback=LeraxCallback(metrics))

    lerax compiles `learn` once for any number of runs, since the run's handle is an argument.

    Args:
        metrics: The run. Episode returns sum the rewards of the environment, without the values
            that lerax adds to rewards at a truncation.

    Raises:
        ConfigurationError: `metrics` has `episode_stats=True` (lerax can't reset the statistics of
            an iteration), or `transport="drain"` (`learn` returns no state to drain).
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
        self.metrics = jax.tree.map(jnp.asarray, metrics)  # other leaves would be static

    def reset(self, ctx: Any, *, key: jax.Array) -> State:  # noqa: ARG002 - lerax's protocol
        """Return the state at the start of a training."""
        return State(self.metrics.init(1))

    def step_reset(self, ctx: Any, *, key: jax.Array) -> StepState:  # noqa: ARG002
        """Return the state of one environment at the start of a training."""
        return StepState(episodes.init_stats(1, window=False), jnp.zeros(1, jnp.uint32))

    def on_step(self, ctx: Any, *, key: jax.Array) -> StepState:  # noqa: ARG002
        """Add one step of one environment to its episode statistics."""
        # `ctx.reward` includes the bootstrapped value at a time limit
        reward = ctx.locals.get("reward", ctx.reward)
        stats = episodes.update_stats(
            ctx.state.episodes, reward[None], ctx.done[None], alpha=self.metrics.config.alpha
        )
        return StepState(stats, ctx.state.steps + 1)

    def on_iteration(self, ctx: Any, *, key: jax.Array) -> State:
        """Log one record."""
        before = ctx.state.metrics
        now = _gather(before, ctx.step_state)
        now = self.metrics.on_iteration(
            now, training_log=ctx.training_log, opt_state=ctx.opt_state, policy=ctx.policy, key=key
        )
        return State(replace(now, episodes=before.episodes))

    def on_training_start(self, ctx: Any, *, key: jax.Array) -> State:  # noqa: ARG002
        """Log the start of a training, each time that the compiled program runs."""
        return State(self.metrics.on_training_start(ctx.state.metrics))

    def on_training_end(self, ctx: Any, *, key: jax.Array) -> State:  # noqa: ARG002
        """Send all buffered records, and log the end of the training."""
        return State(self.metrics.on_training_end(ctx.state.metrics))

    def continue_training(self, ctx: Any, *, key: jax.Array) -> jax.Array:  # noqa: ARG002
        """Return True: the callback never stops the training."""
        return jnp.array(True)


def _gather(state: MetricsState, step_state: StepState) -> MetricsState:
    """Return the state with the statistics and the steps of all environments."""
    stats, steps = jax.tree.map(
        lambda leaf: leaf.reshape(-1), (step_state.episodes, step_state.steps)
    )
    taken = jnp.sum(steps, dtype=jnp.uint32) - state.env_steps.low  # modulo 2**32, as both are
    return replace(state, episodes=stats, env_steps=counter.add(state.env_steps, taken))
