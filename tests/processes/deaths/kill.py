"""Kills a process that logs at random moments, again and again, and sends what a service lacks.

Arguments: a folder, how many moments, a seed. Prints for each what was promised, what was kept and
what the service had before; exits 1 if a promise was broken.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from itertools import count
from pathlib import Path

from metriplex.journal import read_entries
from metriplex.records import Scalars
from metriplex.replay.journal import replay_run
from processes.deaths.host import Service, make_run

LONG = 60.0


def log_for_ever(directory: Path, service: Path, sender: int, queue_size: int) -> None:
    """Logs, and tells after each flush how much was flushed; never returns."""
    run = make_run(directory, Service(service), queue_size=queue_size, flush_secs=0.001)
    for step in count():
        run.log_scalars(step, {"a": float(step)})
        if step % 50 == 49:
            run.flush(LONG)
            os.write(sender, b"%09d\n" % (step + 1))


def moment(folder: Path, shuffled: random.Random) -> bool:
    """Kills one process at a random moment; whether every promise was kept."""
    directory, path = folder / "run", folder / "service"
    folder.mkdir()
    receiver, sender = os.pipe()
    child = os.fork()  # there is no thread yet
    if not child:
        log_for_ever(directory, path, sender, shuffled.choice([5, 65_536]))
    os.close(sender)
    promised = 0
    for _ in range(shuffled.randrange(1, 8)):
        promised = int(os.read(receiver, 10))
    for _ in range(shuffled.randrange(100_000)):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while told := os.read(receiver, 10):
        promised = int(told)
    os.close(receiver)
    service = Service(path)
    before = len(service.stored())
    (left,) = replay_to(directory, service)
    steps = service.stored()
    records = (entry.record for entry in read_entries(directory))
    kept = [record.step for record in records if isinstance(record, Scalars)]
    print(promised, len(kept), before, left)
    return (
        len(kept) >= promised
        and kept == list(range(len(kept)))
        and len(steps) >= promised
        and steps == list(range(len(steps)))
        and left == 0
    )


def replay_to(directory: Path, service: Service) -> list[int]:
    """Sends, and how many records are left."""
    service.name = "first"  # ty: ignore[missing-attribute] - a backend may have a name
    return [one.left for one in replay_run(directory, service)]


def main() -> int:
    """All the moments."""
    folder, moments, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    shuffled = random.Random(seed)
    kept = [moment(folder / f"{index:03d}", shuffled) for index in range(moments)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
