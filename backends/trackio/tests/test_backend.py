"""Records that Trackio itself reads, resumed runs, locks, and no use of the network."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest

pytest.importorskip("metriplex_trackio")
pytest.importorskip("trackio")

from trackio.sqlite_storage import SQLiteStorage
from trackio.utils import MEDIA_DIR, TRACKIO_DIR

import metriplex_trackio
from metriplex import (
    Artifact,
    ConfigurationError,
    Image,
    Lane,
    LoggingError,
    Scalars,
    Text,
    TransientError,
)
from metriplex_trackio import TrackioBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metriplex import RunInfo

    MakeRun: TypeAlias = Callable[..., RunInfo]

PROJECT = "tests"


def logs(run_id: str) -> list[dict[str, Any]]:
    """Return the records that Trackio's dashboard gets of a run."""
    return SQLiteStorage.get_logs(PROJECT, run_id=run_id)


def test_trackio_finds_runs_lanes_groups_and_hyper_parameters(make_run: MakeRun) -> None:
    backend = TrackioBackend(PROJECT)
    described = tuple(Lane(f"seed_{i:03d}", {"seed": 7 + i}) for i in (0, 1))
    info = dataclasses.replace(make_run("walk"), lanes=described)
    backend.open_run(info)
    backend.log_hparams(info, {"optimizer/rate": 3e-4})
    for step in (64, 128):
        backend.log_scalars(info, [Scalars(step, {"eval/return": step / 4})])
    backend.log_scalars(info, [Scalars(64, {"x": lane}, lane=lane) for lane in (0, 1)])
    backend.close_run(info, "finished")
    names = {str(run["id"]): run["name"] for run in SQLiteStorage.get_run_records(PROJECT)}
    mine = {key.removeprefix(info.id): name for key, name in names.items() if info.id in key}
    assert mine == {"": "walk", "-0": "walk-seed_000", "-1": "walk-seed_001"}
    rows = [(row["step"], row["eval/return"]) for row in logs(info.id)]
    assert rows == [(64, 16.0), (128, 32.0)]
    assert [(row["step"], row["x"]) for row in logs(f"{info.id}-1")] == [(64, 1)]
    configs = [
        SQLiteStorage.get_run_config(PROJECT, name, run_id=info.id + key)
        for key, name in mine.items()
    ]
    for config, seed in zip(configs, (None, 7, 8), strict=True):
        assert config is not None
        assert (config["optimizer/rate"], config["_Group"]) == (3e-4, "walk")
        assert config.get("seed") == seed


def test_rows_have_the_time_of_their_record(make_run: MakeRun) -> None:
    run, backend = make_run(), TrackioBackend(PROJECT)
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(1, {"a": 1.0}, wall_time=1_700_000_000.25)])
    backend.close_run(run, "finished")
    (row,) = logs(run.id)
    assert row["timestamp"] == "2023-11-14T22:13:20.250000+00:00"


def test_what_is_sent_twice_is_stored_once(make_run: MakeRun) -> None:
    run, records = make_run(), [Scalars(1, {"a": 1.0}, wall_time=5.0), Scalars(1, {"a": 1.0})]
    for _ in range(2):  # a replay repeats records that a killed process did not acknowledge
        backend = TrackioBackend(PROJECT)
        backend.open_run(run)
        backend.log_scalars(run, [*records, Scalars(1, {"a": 1.0}, wall_time=6.0)])
        backend.log_scalars(run, [Scalars(1, {"a": 1.0}, lane=0, wall_time=5.0)])
        backend.close_run(run, "finished")
    assert len(logs(run.id)) == 4  # rows without a time have no key
    assert len(logs(f"{run.id}-0")) == 1


def test_a_resumed_run_removes_what_it_supersedes_with_its_files(make_run: MakeRun) -> None:
    run = make_run()
    other = dataclasses.replace(run, id=run.id[::-1])
    for one in (run, other):
        backend = TrackioBackend(PROJECT)
        backend.open_run(one)
        for step in (1, 2, 3):
            for lane in (None, 0):
                image = Image(step, "plot", np.full((2, 2, 3), step, np.uint8), lane, 9.0)
                backend.log_image(one, image)
        backend.close_run(one, "interrupted")
    paths = {step: sorted((MEDIA_DIR / PROJECT).glob(f"run*/{step}/*.png")) for step in (1, 2, 3)}
    assert [len(found) for found in paths.values()] == [4, 4, 4]
    TrackioBackend(PROJECT).open_run(dataclasses.replace(run, resume_step=2))
    assert [row["step"] for row in logs(run.id)] == [1]
    assert [row["step"] for row in logs(f"{run.id}-0")] == [1]
    assert [row["step"] for row in logs(other.id)] == [1, 2, 3]
    left = [sum(path.exists() for path in found) for found in paths.values()]
    assert left == [4, 2, 2]


def test_a_locked_database_is_tried_again_and_stores_once(make_run: MakeRun) -> None:
    run, backend = make_run(), TrackioBackend(PROJECT)
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(1, {"a": 1.0})])
    path = TRACKIO_DIR / f"{PROJECT}.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TransientError, match=r"`.*tests.db` can't be written now: .* locked"):
            backend.flush(run)
        backend.log_scalars(run, [Scalars(2, {"a": 2.0})])  # there is room in memory
        other.execute("ROLLBACK")
    backend.flush(run)
    backend.flush(run)
    assert [(row["step"], row["a"]) for row in logs(run.id)] == [(1, 1.0), (2, 2.0)]
    backend.close_run(run, "finished")


def test_artifacts_whose_names_look_alike_stay_apart(make_run: MakeRun) -> None:
    run, backend = make_run(), TrackioBackend(PROJECT)
    backend.open_run(run)
    file = run.directory / "file"
    file.write_bytes(b"content")
    for name in ("a/b", "a-b", "a b"):
        backend.log_artifact(run, Artifact(5, name, file))
        backend.log_artifact(run, Artifact(5, name, file))  # the same call again
    backend.close_run(run, "finished")
    found = SQLiteStorage.get_run_artifacts(PROJECT, run_name=run.name, run_id=run.id)
    names = [one["name"] for one in found["output"]]
    assert len(set(names)) == len(names) == 3
    assert "a-b" in names


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Scalars(2**63, {"a": 1.0}), f"`step` must fit into a signed .* got {2**63}"),
        (Scalars(1, {"": 1.0}), "a tag must not be empty"),
    ],
)
def test_what_can_not_be_stored_is_refused_with_all_of_its_call(
    make_run: MakeRun, record: Scalars, words: str
) -> None:
    run, backend = make_run(), TrackioBackend(PROJECT)
    backend.open_run(run)
    with pytest.raises(LoggingError, match=words):
        backend.log_scalars(run, [Scalars(1, {"a": 1.0}), record])
    backend.log_text(run, Text(2, "note", "lone \ud800 surrogate"))
    backend.close_run(run, "finished")
    (row,) = logs(run.id)
    assert row["note"]["_value"] == "lone \\ud800 surrogate"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"project": "my project"}, r"`project` .* got 'my project': pass .*'myproject'"),
        ({"project": ""}, "got ''"),
        ({"project": 3}, "got 3: pass for example 'metriplex'"),
        ({"project": "registry-x"}, "`project` can't be used: .*reserved"),
        ({"group": ""}, "`group` must be a string that is not empty, or None; got ''"),
        ({"flush_secs": 0}, "`flush_secs` must be a positive number of seconds; got 0"),
        ({"flush_secs": float("nan")}, "got nan"),
    ],
)
def test_options_that_can_not_be_used(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TrackioBackend(**options)


def test_doctor_is_told_where_the_database_is() -> None:
    found = TrackioBackend(PROJECT).diagnose()
    assert (found.works, found.remedy) == (True, "")
    assert str(TRACKIO_DIR) in found.summary


def test_the_package_has_one_name() -> None:
    assert metriplex_trackio.TrackioBackend is TrackioBackend
    with pytest.raises(AttributeError, match="`metriplex_trackio` has no attribute `Backend`"):
        metriplex_trackio.Backend  # noqa: B018 - the access is the test


PROGRAM = """
    import json, sys, threading
    from pathlib import Path
    seen = []
    watched = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.fork")
    sys.addaudithook(lambda event, args: seen.append(event) if event in watched else None)
    import numpy as np
    from metriplex import Image, RunInfo, Scalars
    from metriplex_trackio import TrackioBackend
    seen[:] = [event for event in seen if event.startswith("socket")]  # imports may start processes
    backend = TrackioBackend("quiet")
    run = RunInfo("quiet", "run", Path(sys.argv[1]), 1.0)
    backend.open_run(run)
    backend.log_hparams(run, {"a": 1})
    backend.log_scalars(run, [Scalars(1, {"a": 1.0}), Scalars(1, {"a": 1.0}, lane=3)])
    backend.log_image(run, Image(1, "x", np.zeros((2, 2, 3), np.uint8)))
    backend.flush(run)
    backend.close_run(run, "finished")
    threads = [thread.name for thread in threading.enumerate()]
    Path(sys.argv[1], "seen").write_text(json.dumps([seen, threads]))
"""


def test_nothing_connects_starts_processes_or_threads_or_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert json.loads((tmp_path / "seen").read_text()) == [[], ["MainThread"]]
