"""Measure the wall time that a video every 10 iterations adds to a training of PPO on CartPole.

The same training runs four ways: without videos; with videos from the render worker at the lowest
priority (the default); with videos from a thread of the training process
(`video_worker="thread"`); and with a synchronous host call in the program that draws and encodes
before it returns. All log to TensorBoard; compilation is not measured. `until closed` is the time
until the last video is in the file.

The first part limits jax's threads to one core, which leaves the other cores to drawing (Linux
only). In the second part jax and drawing share all cores. `recompiled` counts the programs that
were compiled after the first round. Videos that arrive faster than they can be drawn are dropped,
so `videos` may be lower than requested.

    python benchmarks/video_training.py [--short]
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import jax
import numpy as np
from _measure import is_short, print_machine, print_table, ratio, take_turns
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metriplex import MetricsCallback, MetricsState, Video
from metriplex.demo.cartpole import CartPole
from metriplex.demo.ppo import Config, train
from metriplex.plugins.renderers import create_renderer
from metriplex.video.draw.drawer import draw_clip
from metriplex.video.draw.jobs import RenderJob
from metriplex.video.play.environments import PatternEnvironment
from metriplex.video.play.rollout import rollout

ENV = CartPole()
OFF = "no videos"
INTERVAL = 10

compiled: list[str] = []
"""One entry per compiled program."""


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Synchronous:
    """A callback that draws and encodes videos in a host call, for which the program waits."""

    metrics: MetricsCallback
    num_steps: int = field(metadata={"static": True})

    def init(self, num_envs: int) -> MetricsState:
        return self.metrics.init(num_envs)

    def on_training_start(self, state: MetricsState) -> MetricsState:
        return self.metrics.on_training_start(state)

    def on_step(self, state: MetricsState, reward: jax.Array, **ends: jax.Array) -> MetricsState:
        return self.metrics.on_step(state, reward, **ends)

    def on_iteration(
        self, state: MetricsState, *, policy: Any, key: jax.Array, **rest: Any
    ) -> MetricsState:
        def record() -> None:
            selected = rollout(
                PatternEnvironment(ENV),
                policy,
                key,
                num_steps=self.num_steps,
                select=lambda state: state,
            )
            leaves, structure = jax.tree.flatten(selected)
            draw = functools.partial(_draw, structure)
            jax.debug.callback(draw, state.env_steps.low, *leaves, ordered=True)

        jax.lax.cond(state.iteration % INTERVAL == 0, record, lambda: None)
        return self.metrics.on_iteration(state, policy=policy, key=key, **rest)

    def on_training_end(self, state: MetricsState) -> MetricsState:
        return self.metrics.on_training_end(state)


_writing: MetricsCallback
"""The run of the current round, to which synchronous videos are logged."""


def _draw(structure: Any, step: jax.Array, *leaves: jax.Array) -> None:
    arrays = [np.asarray(leaf) for leaf in leaves]
    renderer = create_renderer(None, ENV, 640, 480)
    frames = [jax.tree.unflatten(structure, one) for one in zip(*arrays, strict=True)]
    result = draw_clip(
        renderer, RenderJob("eval/video", int(step), 50.0, ("gif",), frames), _ignore
    )
    renderer.close()
    _writing.run.log_media(Video(int(step), "eval/video", None, 50.0, clips=result.clips))


@final
@dataclass
class Contestant:
    """One way to make videos; stores the other results besides the time of the training."""

    config: Config
    num_steps: int
    options: dict[str, Any]
    synchronous: bool = False
    closed: list[float] = field(default_factory=list)
    recompiled: int = 0
    videos: int = 0

    def __call__(self) -> float:
        global _writing
        before = len(compiled)
        with tempfile.TemporaryDirectory() as log_dir:
            metrics = MetricsCallback(
                "run", ENV, log_dir=log_dir, video_num_steps=self.num_steps, **self.options
            )
            _writing = metrics
            logger: Any = Synchronous(metrics, self.num_steps) if self.synchronous else metrics
            start = time.perf_counter()
            jax.block_until_ready(train(logger, jax.random.key(0), self.config, ENV))
            seconds = time.perf_counter() - start
            metrics.close(600)
            self.closed.append(time.perf_counter() - start)
            events = EventAccumulator(str(Path(log_dir) / "run"), {"images": 0}).Reload()
            tags = events.Tags()["images"]
            self.videos = len(events.Images(tags[0])) if tags else 0
        if len(self.closed) > 1:
            self.recompiled += len(compiled) - before
        return seconds


def _ignore(_frames: int) -> None:
    """Ignore the progress."""


def _count(event: str, *_: Any, **__: Any) -> None:
    if event.endswith("backend_compile_duration"):
        compiled.append(event)


def keep_to(cores: set[int]) -> None:
    """Limit all threads of this process to `cores`, except for the calling thread."""
    for thread in Path("/proc/self/task").iterdir():
        if int(thread.name) != threading.get_native_id():
            os.sched_setaffinity(int(thread.name), cores)


def compare(title: str, config: Config, rounds: int, num_steps: int) -> None:
    """Print a table of the results."""
    iterations = config.num_iterations
    contestants = {
        OFF: Contestant(config, num_steps, {}),
        "render worker": Contestant(config, num_steps, {"video_interval": INTERVAL}),
        '`video_worker="thread"`': Contestant(
            config, num_steps, {"video_interval": INTERVAL, "video_worker": "thread"}
        ),
        "synchronous": Contestant(config, num_steps, {}, synchronous=True),
    }
    results = take_turns(contestants, rounds)
    print(
        f"{title}: {config.num_envs} environments x {config.rollout_length} steps, {iterations} "
        f"iterations, a video of {num_steps} frames, 640 x 480, every {INTERVAL}; medians of "
        f"{rounds} rounds\n"
    )
    print_table(
        ["", "ms an iteration", "ratio", "s until closed", "videos", "recompiled"],
        [
            [
                name,
                f"{statistics.median(seconds) / iterations * 1e3:.2f}",
                f"{ratio(results, name, OFF):.3f}",
                f"{statistics.median(contestants[name].closed[1:]):.1f}",
                str(contestants[name].videos),
                str(contestants[name].recompiled),
            ]
            for name, seconds in results.items()
        ],
    )


def main() -> None:
    short = is_short(__doc__)
    jax.monitoring.register_event_duration_secs_listener(_count)
    print_machine("jax", "jaxlib")
    every = os.sched_getaffinity(0)
    iterations, rounds, num_steps = (20, 1, 20) if short else (40, 5, 256)
    for title, num_envs, cores in (("one core", 64, {min(every)}), ("all cores", 128, every)):
        size = 8 if short else num_envs
        config = Config(
            num_envs=size, rollout_length=128, num_iterations=iterations, hidden=(128, 128)
        )
        jax.block_until_ready(train(None, jax.random.key(0), config, ENV))
        keep_to(cores)
        compare(title, config, rounds, num_steps)


if __name__ == "__main__":
    main()
