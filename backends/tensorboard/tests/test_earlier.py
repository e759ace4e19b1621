"""Records that are sent again after the death of a process are stored once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from metriplex import Histogram, Image, Lane, RunInfo, Scalars, Text, Video
from metriplex_tensorboard.backend import TensorBoardBackend
from metriplex_tensorboard.event_file import event_files, read_events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FRAMES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
MEDIA: list[Any] = [
    Text(1, "note", "hi", wall_time=100.0),
    Image(1, "picture", FRAMES[0], wall_time=101.0),
    Histogram(1, "weights", np.array([1, 2]), np.array([0.0, 1.0, 2.0]), wall_time=102.0),
    Video(1, "clip", FRAMES, 10.0, wall_time=103.0),
]


def scalars(steps: Sequence[int], lane: int | None = None) -> list[Scalars]:
    return [Scalars(step, {"a": float(step)}, step, lane, 100.0 + step) for step in steps]


def run_in(directory: Path) -> RunInfo:
    return RunInfo("0f", "run", directory, 0.0, lanes=(Lane("one"), Lane("two")))


def send(directory: Path, records: Sequence[Scalars], media: Sequence[Any] = ()) -> None:
    """Sends and flushes, as a process that is killed then."""
    run, backend = run_in(directory), TensorBoardBackend()
    backend.open_run(run)
    backend.log_scalars(run, records)
    for record in media:
        getattr(backend, f"log_{type(record).__name__.lower()}")(run, record)
    backend.flush(run)


def stored(directory: Path) -> list[bytes]:
    """The events but the heads of files, in the order of reading."""
    events = [event for path in event_files(directory) for event in read_events(path)]
    return [event for event in events if b"brain.Event" not in event]


@pytest.mark.parametrize("lane", [None, 0, 1])
@pytest.mark.parametrize("kept", [0, 1, 4, 7])
def test_what_was_stored_is_not_stored_again(tmp_path: Path, kept: int, lane: int | None) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    for directory in (once, twice):
        directory.mkdir()
    records = scalars(range(7), lane)
    send(once, records)
    send(twice, records[:kept])
    send(twice, records)
    send(twice, records)
    where = "" if lane is None else ("one", "two")[lane]
    assert len(stored(once / where)) == 7
    assert stored(twice / where) == stored(once / where)


def test_records_of_every_kind_are_recognised(tmp_path: Path) -> None:
    send(tmp_path, scalars([1]), MEDIA)
    before = stored(tmp_path)
    send(tmp_path, scalars([1]), MEDIA)
    assert len(before) == 1 + len(MEDIA)
    assert stored(tmp_path) == before


def test_older_events_in_a_later_batch_are_recognised(tmp_path: Path) -> None:
    send(tmp_path, scalars(range(5)))
    run, backend = run_in(tmp_path), TensorBoardBackend()
    backend.open_run(run)
    for step in (3, 4, 0, 2, 5, 1):
        backend.log_scalars(run, scalars([step]))
    backend.flush(run)
    assert len(stored(tmp_path)) == 6


def test_equal_records_are_kept_as_often_as_they_were_logged(tmp_path: Path) -> None:
    same = scalars([1, 1, 1])
    send(tmp_path, same[:2])
    send(tmp_path, same)
    assert len(stored(tmp_path)) == 3


def test_what_differs_in_anything_is_stored(tmp_path: Path) -> None:
    one = Scalars(1, {"a": 1.0}, 1, None, 100.0)
    others = [
        Scalars(2, {"a": 1.0}, 1, None, 100.0),
        Scalars(1, {"a": 2.0}, 1, None, 100.0),
        Scalars(1, {"b": 1.0}, 1, None, 100.0),
        Scalars(1, {"a": 1.0}, 1, None, 100.5),
    ]
    send(tmp_path, [one])
    send(tmp_path, others)
    assert len(stored(tmp_path)) == 5


def test_a_torn_end_is_sent_again(tmp_path: Path) -> None:
    send(tmp_path, scalars(range(5)))
    (path,) = event_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    send(tmp_path, scalars(range(5)))
    assert len(stored(tmp_path)) == 5
