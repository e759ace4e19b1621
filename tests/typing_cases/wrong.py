"""Wrong programs: each line needs its ignore, and an ignore that is not needed is an error."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import metriplex


@metriplex.callback_with_numpy_wrapper
def show(step: np.ndarray, name: str) -> None:
    print(name, step)


def main(metrics: metriplex.MetricsCallback, writer: metriplex.JITSummaryWriter) -> None:
    metriplex.MetricsCallback(alpha="0.9")  # ty: ignore[invalid-argument-type]
    metriplex.MetricsCallback(nonfinite="ignore")  # ty: ignore[invalid-argument-type]
    metriplex.MetricsCallback(reduce="sum")  # ty: ignore[invalid-argument-type]
    metriplex.MetricsCallback(axis_name=3)  # ty: ignore[invalid-argument-type]
    metriplex.MetricsCallback(learning_rate="fast")  # ty: ignore[invalid-argument-type]
    metriplex.MetricsCallback(log_dir=3)  # ty: ignore[invalid-argument-type]
    metriplex.MetricsCallback(alhpa=0.9)  # ty: ignore[unknown-argument]
    metriplex.MetricsCallback("a", None, None, 0.9, "logs", [])  # ty: ignore[too-many-positional-arguments]
    metriplex.TensorBoardCallback(backends=[])  # ty: ignore[unknown-argument]
    metriplex.TensorBoardCallback(video_width="wide")  # ty: ignore[invalid-argument-type]
    state = metrics.init("4")  # ty: ignore[invalid-argument-type]
    metrics.on_step(jnp.ones(3), jnp.ones(3))  # ty: ignore[invalid-argument-type]
    metrics.on_step(state, done=jnp.ones(3))  # ty: ignore[missing-argument]
    metrics.on_iteration(state, {"loss": 1.0})  # ty: ignore[too-many-positional-arguments]
    metrics.on_iteration(state, iteration="3")  # ty: ignore[invalid-argument-type]
    metrics.log({"a": 1}, 3)  # ty: ignore[invalid-argument-type]
    metrics.log_video("a", np.zeros((1, 2, 2, 3)))  # ty: ignore[missing-argument]
    number: int = metrics.on_training_end(state)  # ty: ignore[invalid-assignment]
    writer.add_dict({"a": 1}, "prefix")  # ty: ignore[too-many-positional-arguments]
    show(np.zeros(3))  # ty: ignore[missing-argument]
    show(np.zeros(3), 3)  # ty: ignore[invalid-argument-type]
    text: str = show(np.zeros(3), "x")  # ty: ignore[invalid-assignment]
    print(number, text)
