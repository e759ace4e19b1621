"""Programs that use the public interface as it is meant: a type checker finds nothing in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metriplex

if TYPE_CHECKING:
    from collections.abc import Sequence


class TrainState(NamedTuple):
    metrics: metriplex.MetricsCallback
    metrics_state: metriplex.MetricsState
    opt_state: optax.OptState


@final
@dataclass(frozen=True)
class Hyperparameters:
    rate: float = 3e-4


@final
class Backend:
    @metriplex.hookimpl
    def log_scalars(self, records: Sequence[metriplex.Scalars]) -> None:
        for record in records:
            loss: metriplex.Scalar = record.values["train/loss"]
            print(record.step, loss)


@final
class Halve:
    @metriplex.hookimpl
    def transform_scalars(self, record: metriplex.Scalars) -> metriplex.Scalars | None:
        return replace(record, values={tag: value / 2 for tag, value in record.values.items()})


@jax.jit
def iterate(state: TrainState, reward: jax.Array, done: jax.Array) -> TrainState:
    metrics, metrics_state, opt_state = state
    metrics_state = metrics.on_step(metrics_state, reward, done)
    metrics_state = metrics.on_step(metrics_state, reward, terminated=done, truncated=~done)
    metrics_state = metrics.on_iteration(
        metrics_state,
        training_log={"loss": jnp.float32(0), "nested": {"kl": 0.5}},
        opt_state=opt_state,
        where=jnp.bool_(True),
    )
    return state._replace(metrics_state=metrics_state)


@metriplex.callback_with_numpy_wrapper
def show(step: np.ndarray, name: str, *, scale: float = 1.0) -> int:
    return print(name, step * scale) or 0


def main() -> None:
    with metriplex.MetricsCallback(
        "run",
        log_dir=Path("logs"),
        backends=[
            "tensorboard",
            {"console": {}},
            Backend(),
            metriplex.Route("wandb", include="episode/*", every=10_000),
            metriplex.Route({"mlflow": {}}, exclude=["time/*"], every=timedelta(seconds=30)),
        ],
        transforms=[Halve(), "smooth"],
        hparams={"optimizer": {"rate": 3e-4}},
        learning_rate=optax.linear_schedule(1.0, 0.0, 10),
        axis_name=("devices", "seeds"),
        nonfinite="abort",
        reduce="mean",
    ) as metrics:
        state = metrics.on_training_start(metrics.init(4))
        state = iterate(
            TrainState(metrics, state, ()), jnp.ones(4), jnp.ones(4, bool)
        ).metrics_state
        metrics.on_training_end(state)
        metrics.log(2**40, {"eval/return": np.float32(1)})
        metrics.flush(timeout=3)
    delivered: int = metrics.deliveries()[0].delivered
    directory: Path = metrics.directory
    print(delivered, directory.name)

    metriplex.MetricsCallback(hparams=Hyperparameters()).log_hparams(Hyperparameters())

    pattern: metriplex.MetricsCallback = metriplex.TensorBoardCallback(None, "env", "policy", 0.5)
    pattern.close()
    with metriplex.JITSummaryWriter("logs/run") as writer:
        writer.add_scalar("a", jnp.float32(1), 3)
        writer.add_dict({"a": 1}, prefix="b", global_step=jnp.int32(3))
    nothing: None = show(np.zeros(3), "x", scale=2.0)
    print(nothing)
