"""Events survive killed processes, full disks and few file descriptors."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from metriplex import Scalars
from metriplex_tensorboard import TensorBoardBackend, run_files
from metriplex_tensorboard.event_file import EventFile, frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRELUDE = """
import sys, resource
from pathlib import Path
from metriplex import RunInfo, Scalars
from metriplex_tensorboard import TensorBoardBackend

run = RunInfo(id="0", name="run", directory=Path(sys.argv[1]), start_time=0.0)
backend = TensorBoardBackend()
backend.open_run(run)
"""


def child(body: str, directory: Path) -> subprocess.Popen[str]:
    code = PRELUDE + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Limit the size of this process's files: a write is cut short, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 10_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_everything_flushed_survives_sigkill(make_run, accumulate) -> None:
    run = make_run()
    body = """
    for call in range(100):
        records = [Scalars(5 * call + i, {"a": call, "b": i}, lane=None) for i in range(5)]
        backend.log_scalars(run, records)
        backend.log_scalars(run, [Scalars(call, {"c": call}, lane=1)])
    backend.flush(run)
    backend.log_scalars(run, [Scalars(10**6, {"a": 0.0})])
    print("flushed", flush=True)
    sys.stdin.read()
    """
    with child(body, run.directory) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL

    read = accumulate(run.directory)
    assert [event.step for event in read.Scalars("a")] == list(range(500))
    assert [event.value for event in read.Scalars("b")] == [step % 5 for step in range(500)]
    lane = accumulate(run.directory / "seed_001")
    assert [event.value for event in lane.Scalars("c")] == list(range(100))


def test_file_that_may_not_grow_is_neither_torn_nor_doubled(
    make_run, read_events, file_size_limit: int
) -> None:
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    records = [Scalars(step, {"a": step}) for step in range(1000)]

    backend.log_scalars(run, records[:100])
    backend.flush(run)
    backend.log_scalars(run, records[100:])
    for _ in range(3):
        with pytest.raises(OSError, match="File too large"):
            backend.flush(run)
        assert [event.step for event in read_events(run.directory)[1:]] == list(range(100))
    with pytest.raises(OSError, match="File too large"):
        backend.close_run(run, "finished")

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    backend.close_run(run, "finished")

    assert [event.step for event in read_events(run.directory)[1:]] == list(range(1000))


def test_retried_calls_store_nothing_twice(
    make_run, read_events, monkeypatch: pytest.MonkeyPatch, file_size_limit: int
) -> None:
    """A worker makes the same call again after an `OSError`, whichever call it was."""
    monkeypatch.setattr(run_files, "_PENDING_BYTES", 2000)
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    backend.log_hparams(run, {"lr": 0.1})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    failures = 0

    for step in range(0, 1000, 10):
        records = [Scalars(step + i, {"a": step}, lane=i % 2 or None) for i in range(10)]
        while True:
            try:
                backend.log_scalars(run, records)
                break
            except OSError:
                failures += 1
                more = file_size_limit + 1000 * failures if failures % 2 else file_size_limit
                resource.setrlimit(resource.RLIMIT_FSIZE, (more, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    backend.close_run(run, "failed")

    assert failures > 2
    steps = [event.step for event in read_events(run.directory)[3:-1]]
    assert steps == [step for step in range(1000) if step % 10 % 2 == 0]
    lane = [event.step for event in read_events(run.directory / "seed_001")[1:]]
    assert lane == [step for step in range(1000) if step % 10 % 2 == 1]


def test_memory_stays_bounded_while_the_disk_is_full(
    make_run, monkeypatch: pytest.MonkeyPatch, file_size_limit: int
) -> None:
    monkeypatch.setattr(run_files, "_PENDING_BYTES", 50_000)
    backend, run = TensorBoardBackend(), make_run()
    backend.open_run(run)
    records = [Scalars(step, {"a": step}) for step in range(100)]

    taken = 0

    def log_for_ever() -> None:
        nonlocal taken
        while True:
            backend.log_scalars(run, records)
            taken += len(records)

    with pytest.raises(OSError, match="File too large"):
        log_for_ever()

    assert 1000 < taken < 2000


def test_full_disk_is_neither_torn_nor_doubled(tmp_path, make_run, read_events) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here; RLIMIT_FSIZE covers the same")
    try:
        backend, run = TensorBoardBackend(), make_run(disk / "run")
        backend.open_run(run)
        (disk / "hog").write_bytes(bytes(80_000))
        backend.log_scalars(run, [Scalars(step, {"a": step}) for step in range(2000)])
        with pytest.raises(OSError, match="No space left"):
            backend.flush(run)
        with pytest.raises(OSError, match="No space left"):
            backend.flush(run)
        assert [event.step for event in read_events(run.directory)[1:]] == []

        (disk / "hog").unlink()
        backend.log_scalars(run, [Scalars(2000, {"a": 2000})])
        backend.close_run(run, "finished")

        assert [event.step for event in read_events(run.directory)[1:]] == list(range(2001))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_opening_is_retried_in_the_same_file(make_run, read_events, file_size_limit: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))
    backend, run = TensorBoardBackend(), make_run()
    with pytest.raises(OSError, match="File too large"):
        backend.open_run(run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    backend.open_run(run)
    backend.close_run(run, "finished")

    assert [event.file_version for event in read_events(run.directory)] == ["brain.Event:2"]


def test_directory_that_is_gone_is_an_oserror(make_run) -> None:
    backend, run = TensorBoardBackend(), make_run()
    run.directory.rmdir()
    run.directory.touch()

    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        backend.open_run(run)


def test_hundreds_of_lanes_need_few_descriptors(make_run, accumulate) -> None:
    run = make_run()
    body = """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard))
    for step in range(3):
        backend.log_scalars(run, [Scalars(step, {"a": lane}, lane=lane) for lane in range(256)])
        backend.flush(run)
    backend.close_run(run, "finished")
    """
    with child(body, run.directory) as process:
        assert process.wait() == 0

    assert len(list(run.directory.glob("seed_*"))) == 256
    for lane in (0, 31, 255):
        read = accumulate(run.directory / f"seed_{lane:03d}")
        assert [(event.step, event.value) for event in read.Scalars("a")] == [
            (step, lane) for step in range(3)
        ]


def test_name_that_is_taken_meanwhile_is_left_alone(tmp_path, monkeypatch) -> None:
    """If two processes pick the same name at once, the second takes another."""
    names = iter(["events.out.tfevents.1.a", "events.out.tfevents.1.a", "events.out.tfevents.1.b"])
    monkeypatch.setattr("metriplex_tensorboard.event_file._file_name", lambda *_: next(names))
    for data in (b"first", b"second"):
        file = EventFile(tmp_path)
        file.append([frame(data)])
        file.write()

    contents = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert contents == [frame(b"first"), frame(b"second")]


def test_what_a_failed_write_left_behind_is_overwritten(tmp_path) -> None:
    """The retry overwrites the remains of a failed write, even if truncating failed too."""
    file = EventFile(tmp_path)
    file.append([frame(b"first")])
    file.write()
    [path] = tmp_path.iterdir()
    with path.open("ab") as torn:
        torn.write(frame(b"second")[:9])

    file.append([frame(b"second")])
    file.write()

    assert path.read_bytes() == frame(b"first") + frame(b"second")
