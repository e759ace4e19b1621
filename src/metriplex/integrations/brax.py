"""Log the metrics of brax and MuJoCo Playground, and record videos of their environments."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, final

import jax
import jax.numpy as jnp

from metriplex.integrations.evaluation import record_video

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metriplex.callback.callback import MetricsCallback

_RENAMED = {"episode/sum_reward": "episode/return", "eval/episode_reward": "eval/return"}
_EPISODE = ("episode/return", "episode/length")


def progress_fn(metrics: MetricsCallback) -> Callable[[int, Mapping[str, Any]], None]:
    """Return a function for brax's `train(progress_fn=...)` that logs the metrics.

        ppo.train(environment=env, progress_fn=progress_fn(metrics), log_training_metrics=True, ...)

    Tags are the names of brax, with these exceptions: `training/...` becomes `train/...`,
    `episode/sum_reward` becomes `episode/return`, `eval/episode_reward` becomes `eval/return`, and
    `episode/...` becomes `train/...` except for the return and the length.

    Args:
        metrics: The run.
    """

    def report(num_steps: int, values: Mapping[str, Any]) -> None:
        metrics.log(num_steps, {_tag(name): value for name, value in values.items()})

    return report


def policy_params_fn(metrics: MetricsCallback) -> Callable[[int, Any, Any], None]:
    """Return a function for brax's `train(policy_params_fn=...)` that records videos.

    Every `video_interval`-th call records a video; brax calls the function at the start and after
    each epoch (`num_evals`). The rollout is compiled once.

    Args:
        metrics: The run, of `MetricsCallback(env=BraxEnvironment(env), video_interval=...)`.
    """
    calls = itertools.count()
    acting: dict[Any, Callable[..., Any]] = {}

    def record(num_steps: int, make_policy: Any, params: Any) -> None:
        def act(params: Any, observation: Any, key: jax.Array) -> Any:
            return make_policy(params, deterministic=True)(observation, key)[0]

        policy = jax.tree_util.Partial(acting.setdefault(make_policy, act), params)
        record_video(metrics, int(num_steps), policy=policy, index=next(calls))

    return record


@final
class BraxEnvironment:
    """An environment of brax or MuJoCo Playground for videos, drawn by MuJoCo.

        metrics = MetricsCallback(env=BraxEnvironment(env), video_interval=5)

    Args:
        env: The environment, not wrapped for training. All backends of brax are drawn, with the
            MuJoCo model that the environment was made from.

    Attributes:
        name: Name of the environment's class.
        mujoco_model: The model to draw; None if the environment has none.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        inner = env.unwrapped
        self.name = type(inner).__name__
        self.mujoco_model: Any = getattr(getattr(inner, "sys", inner), "mj_model", None)

    def initial(self, *, key: Any) -> Any:
        """Return the first state of an episode."""
        return _Played.of(self._env.reset(key))

    def transition(self, state: Any, action: Any, *, key: Any) -> Any:  # noqa: ARG002
        """Return the next state."""
        return _Played.of(self._env.step(state.state, action))

    def observation(self, state: Any, *, key: Any) -> Any:  # noqa: ARG002
        """Return the observation of the policy."""
        return state.state.obs

    def terminal(self, state: Any, *, key: Any) -> jax.Array:  # noqa: ARG002
        """Return True if the episode has ended; bool `[]`."""
        return jnp.asarray(state.state.done, bool)


@final
class _Played(NamedTuple):
    """A state, and its simulation as `data`, the attribute that the MuJoCo renderer reads."""

    state: Any
    data: Any

    @classmethod
    def of(cls, state: Any) -> _Played:
        simulation = getattr(state, "data", None)
        if simulation is None:
            simulation = state.pipeline_state
        if simulation is not None and not hasattr(simulation, "qpos"):
            simulation = _Simulation(simulation.q, simulation.qd)
        return cls(state, simulation)


@final
class _Simulation(NamedTuple):
    """Positions and velocities of brax's own backends, in MuJoCo's order and with its names."""

    qpos: Any
    qvel: Any


def _tag(name: str) -> str:
    name = _RENAMED.get(name, name)
    group, _, rest = name.partition("/")
    is_training = group == "training" or (group == "episode" and name not in _EPISODE)
    return f"train/{rest}" if is_training else name
