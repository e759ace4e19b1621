"""Kills a process that logs to TensorBoard at random moments, then replays or resumes its run.

Arguments: a folder, how many moments, a seed. Prints for each what was done, and how many steps the
journal and TensorBoard have; exits 1 if TensorBoard does not have each step of the journal once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import metriplex
from metriplex import MetricsCallback

LONG = 60.0
TAGS = [f"tag/{index}" for index in range(100)]


def log_for_ever(folder: Path, sender: int, flush_secs: float, every: int) -> None:
    """Logs, and tells every 20 records that it lives; flushes after some; never returns."""
    metrics = MetricsCallback(
        "r",
        log_dir=folder,
        backends={"tensorboard": {"flush_secs": flush_secs}},
        journal={"flush_secs": 0.02},
        provenance=False,
    )
    for step in count():
        metrics.log(step, dict.fromkeys(TAGS, float(step)))
        if step % every == every - 1:
            metrics.flush()
        if step % 20 == 19:
            os.write(sender, b".")


def resume(folder: Path, step: int | None) -> None:
    """Continues a run by five steps."""
    with MetricsCallback(
        resume="r", resume_step=step, log_dir=folder, backends="tensorboard", provenance=False
    ) as metrics:
        first = metrics.config.first_step + 1
        for one in range(first, first + 5):
            metrics.log(one, dict.fromkeys(TAGS, float(one)))


def in_child(function: Any, *arguments: Any) -> int:
    """Starts a process, which has no thread of this one, and returns its id."""
    child = os.fork()
    if not child:
        try:
            function(*arguments)
        finally:
            os._exit(1)
    return child


def shown(directory: Path) -> list[list[tuple[int, float]]]:
    """What TensorBoard shows of the first and of the last tag."""
    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [
        [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in (TAGS[0], TAGS[-1])
    ]


def moment(folder: Path, shuffled: random.Random, way: str) -> bool:
    """Kills one process at a random moment; whether each step is there once after `way`."""
    folder.mkdir()
    receiver, sender = os.pipe()
    every = shuffled.choice([30, 10**9])
    child = in_child(log_for_ever, folder, sender, shuffled.choice([0.01, 5.0]), every)
    os.close(sender)
    for _ in range(shuffled.randrange(1, 40)):
        os.read(receiver, 1)
    for _ in range(shuffled.randrange(100_000)):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(receiver)
    directory = folder / "r"
    steps = [int(step) for step in metriplex.read(directory).series(TAGS[0]).step]
    if way == "replay":
        metriplex.replay_run(directory, "tensorboard")
    else:
        step = shuffled.randrange(len(steps)) if way == "resume_step" else None
        last = steps[-1] if step is None else step
        steps = [*range(last + 1), *range(last + 1, last + 6)]
        child = in_child(lambda: (resume(folder, step), os._exit(0)))
        if os.waitpid(child, 0)[1]:
            return False
    expected = [(step, float(step)) for step in steps]
    found = shown(directory)
    print(way, len(steps), *map(len, found))
    return found == [expected, expected]


def main() -> int:
    """All the moments."""
    folder, moments, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    shuffled = random.Random(seed)
    ways = ["replay", "resume", "resume_step"]
    held = [
        moment(folder / f"{index:03d}", shuffled, ways[index % len(ways)])
        for index in range(moments)
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
