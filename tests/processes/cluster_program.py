"""The program of each process of `test_cluster.py`: index, number, port, directory, function."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

PROCESS, NUMBER, PORT, DIRECTORY, MODE = *map(int, sys.argv[1:4]), Path(sys.argv[4]), sys.argv[5]
if __name__ == "__main__":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{PORT}", NUMBER, PROCESS, heartbeat_timeout_seconds=10)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from metriplex import (  # noqa: E402
    ConfigurationError,
    MetricsCallback,
    callback_with_numpy_wrapper,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from metriplex import RunInfo

ENVS = 8
ITERATIONS = 3


class Lines:
    """Writes each record as a line, at once."""

    @hookimpl
    def log_hparams(self, run: RunInfo, hparams: Any) -> None:
        self._write(run, {"hparams": dict(hparams)})

    @hookimpl
    def log_scalars(self, run: RunInfo, records: Any) -> None:
        for record in records:
            values = {tag: v for tag, v in record.values.items() if not tag.startswith("time/")}
            self._write(run, {"lane": record.lane, "step": record.step, **values})

    @hookimpl
    def log_artifact(self, run: RunInfo, artifact: Any) -> None:
        self._write(run, {"artifact": artifact.name})

    def _write(self, run: RunInfo, what: Any) -> None:
        with (run.directory / "lines").open("a") as file:
            print(json.dumps(what), file=file)


def callback(name: str | None, **options: Any) -> MetricsCallback:
    """Each process logs to a folder of its own, so that it shows which ones write."""
    return MetricsCallback(
        name, log_dir=DIRECTORY / f"process_{PROCESS}", backends=Lines(), **options
    )


def shared(name: str | None, **options: Any) -> MetricsCallback:
    """All log to one folder, and keep a journal that is on the disk at every flush."""
    return MetricsCallback(name, log_dir=DIRECTORY, backends=Lines(), **options)


def devices(*, backwards: bool) -> Mesh:
    return Mesh(np.array(jax.devices()[:: -1 if backwards else 1]), ("x",))


def spread(mesh: Mesh) -> jax.Array:
    sharding = NamedSharding(mesh, P("x"))
    return jax.make_array_from_callback((ENVS,), sharding, lambda at: np.arange(float(ENVS))[at])


def train(metrics: MetricsCallback, rewards: jax.Array) -> jax.Array:
    def iterate(state: Any, index: jax.Array) -> Any:
        state = metrics.on_step(state, rewards, jnp.ones_like(rewards, bool))
        return metrics.on_iteration(state, training_log={"loss": rewards.mean() + index}), None

    state = metrics.on_training_start(metrics.init(len(rewards)))
    state, _ = lax.scan(iterate, state, jnp.arange(ITERATIONS))
    return metrics.on_training_end(state).episodes.return_ema


def whole(metrics: MetricsCallback, mesh: Mesh) -> None:
    jax.jit(train)(metrics, spread(mesh))


def manual(metrics: MetricsCallback, mesh: Mesh) -> None:
    program = jax.shard_map(partial(train, metrics), mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    jax.jit(program)(spread(mesh))


def seeds(metrics: MetricsCallback, mesh: Mesh) -> None:
    jax.jit(jax.vmap(lambda reward: train(metrics, reward[None])))(spread(mesh))


def say(**what: Any) -> None:
    print(json.dumps({"process": PROCESS, **what}), flush=True)


def everything() -> None:
    """Run after run; they have names, or agree on one."""
    programs: dict[str, tuple[Callable[..., None], bool]] = {
        "jit": (whole, False),
        "jit_reversed": (whole, True),
        "shard_map": (manual, False),
        "shard_map_reversed": (manual, True),
        "seeds": (seeds, False),
        "seeds_reversed": (seeds, True),
    }
    if PROCESS == 1:  # takes a handle that the others don't
        callback_with_numpy_wrapper(lambda value: None)(1.0)
    for name, (program, backwards) in programs.items():
        with callback(name, hparams={"a": 1}) as metrics:
            program(metrics, devices(backwards=backwards))
    with callback("lanes", axis_name=()) as metrics:
        manual(metrics, devices(backwards=False))
    with callback(None) as metrics:
        say(name=metrics.run.info.name, id=metrics.run.info.id)
        metrics.log(7, {"a": 0.5})
        metrics.log_artifact(__file__, name="program.py")
        metrics.flush()
    with callback("jit_reversed_then_host") as metrics:
        whole(metrics, devices(backwards=True))
        metrics.flush()
        everyone_is_here()
        metrics.log(99, {"eval": 1.0})
        metrics.flush()
        say(deliveries=[delivery.delivered for delivery in metrics.deliveries()])
    for _ in range(2):
        with callback("again") as metrics:
            whole(metrics, devices(backwards=False))
    try:
        callback("abort", nonfinite="abort")
    except ConfigurationError as error:
        say(error=str(error))


def everyone_is_here() -> None:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("here")


def endless() -> None:
    """Trains until a process is killed; the writer says when it has something."""
    metrics = shared("endless")
    mesh = devices(backwards=True)
    program = jax.jit(train)
    for turn in range(10_000):
        jax.block_until_ready(program(metrics, spread(mesh)))
        metrics.flush()
        if turn == 1:
            say(turn=turn)


def early() -> None:
    """Process 0, which writes, is done long before the others, which wait for a word."""
    with callback("early") as metrics:
        whole(metrics, devices(backwards=False))
    say(closed=True)
    if PROCESS != 0:
        sys.stdin.readline()
        say(ends=True)


def first() -> None:
    """Runs that are there to be continued, and records of the host that come before any row."""
    for name, (program, backwards) in RESUMED.items():
        with shared(name, hparams={"a": 1}, total_steps=99) as metrics:
            metrics.log(0, {"before": 1.0})
            metrics.log_artifact(__file__, name="program.py")
            program(metrics, devices(backwards=backwards))
        say(writes=[name, len(metrics.deliveries())])
    with shared("lanes", axis_name=()) as metrics:
        manual(metrics, devices(backwards=False))


def again() -> None:
    """Continues them: from a checkpoint, then from where they ended; and what isn't there."""
    for name, (program, backwards) in RESUMED.items():
        for step in (2 * ENVS, None):
            with shared(None, resume=name, resume_step=step) as metrics:
                program(metrics, devices(backwards=backwards))
                info = metrics.run.info
            config = metrics.config
            say(info=[info.id, info.name, info.total_steps, str(info.directory)])
            say(place=[config.first_step, config.first_iteration])
    share = ENVS // NUMBER
    with shared(None, resume="lanes", resume_step=2 * share, axis_name=()) as metrics:
        manual(metrics, devices(backwards=False))
    for resume in ("nothing", "empty"):
        try:
            shared(None, resume=resume)
        except ConfigurationError as error:
            say(error=str(error))


def held() -> None:
    """Continues a run that somebody else has open."""
    try:
        shared(None, resume="held")
    except ConfigurationError as error:
        say(error=str(error))


def hidden() -> None:
    """Process 1 is to write a run on whose directory is gone by then."""
    with shared(None, resume="hidden") as metrics:
        everyone_is_here()
        if PROCESS == 0:
            (DIRECTORY / "hidden").rename(DIRECTORY / "elsewhere")
        everyone_is_here()
        whole(metrics, devices(backwards=True))


def host_alone() -> None:
    """A loop of the host logs without any program, and is killed without having flushed."""
    from metriplex.cluster import run as cluster_run

    cluster_run.HOLD_SECONDS = 0.0
    metrics = shared("loop")
    for step in range(3):
        metrics.log(step, {"a": step})
    say(waits=len(metrics.deliveries()))
    sys.stdin.readline()


def endless_again() -> None:
    """Goes on from the checkpoint of a killed writer, and ends."""
    with shared(None, resume="endless", resume_step=ENVS) as metrics:
        whole(metrics, devices(backwards=True))
    say(ends=True)


def alone() -> None:
    """Process 0 forgets to construct what the others do."""
    from metriplex.cluster import processes as cluster

    cluster.JOIN_SECONDS = 0.5
    if PROCESS != 0:
        try:
            callback("alone")
        except ConfigurationError as error:
            say(error=str(error))


RESUMED: dict[str, tuple[Callable[..., None], bool]] = {
    "jit": (whole, False),
    "jit_reversed": (whole, True),
}

if __name__ == "__main__":
    globals()[MODE]()
