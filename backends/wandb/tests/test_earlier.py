"""Rows that earlier processes have stored are stored once, and superseded ones are removed."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("wandb")

from wandb.proto.wandb_internal_pb2 import HistoryRecord, Record

from metriplex import Histogram, Image, Scalars, Text
from metriplex_wandb import WandbBackend
from metriplex_wandb.contract import read_log, read_run
from metriplex_wandb_client.earlier import find_logs
from metriplex_wandb_client.transaction_log import TransactionLog, append, keep_records

VALUES: dict[str, Any] = {
    "float": 0.1,
    "zero": -0.0,
    "int": 7,
    "large": 2**70,
    "true": True,
    "nan": math.nan,
    "inf": -math.inf,
    "letters/ключ 🙂": 1.5,
    "_step": 2.5,
}


def logged(backend: WandbBackend, run: Any, status: str = "finished") -> None:
    """One record of each kind, always the same."""
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(3, {"a": 1.0}, wall_time=1e9)] * 2)  # twice is meant
    backend.log_scalars(run, [Scalars(3, VALUES, wall_time=1e9 + 0.1)])
    backend.log_scalars(run, [Scalars(2, {"a": 2}, lane=1, wall_time=1e9 - 1.0)])
    backend.log_text(run, Text(3, "note", "words", wall_time=1e9 + 0.2))
    backend.log_image(run, Image(3, "frame", np.zeros((4, 4, 3), np.uint8), wall_time=1e9 + 0.3))
    counts, edges = np.ones(3, np.int64), np.arange(4.0)
    backend.log_histogram(run, Histogram(3, "h", counts, edges, wall_time=1e9 + 0.4))
    backend.close_run(run, status)


def test_what_is_sent_again_is_stored_once_for_every_kind_and_value(make_run) -> None:
    run = make_run()
    logged(WandbBackend(mode="offline"), run, "failed")
    once = read_run(run)
    assert once.scalars[None, "a"] == [(3, 1.0), (3, 1.0)]
    assert len(once.scalars) == 2 + len(VALUES)

    logged(WandbBackend(mode="offline"), run)

    twice = read_run(run)
    assert repr(twice.scalars) == repr(once.scalars)
    assert twice.texts == once.texts
    assert {series: len(points) for series, points in twice.images.items()} == {(None, "frame"): 1}
    assert {series: len(points) for series, points in twice.histograms.items()} == {(None, "h"): 1}
    assert twice.status == "finished"


def test_records_that_differ_in_anything_are_all_stored(make_run) -> None:
    run = make_run()
    first = Scalars(3, {"a": 1.0}, wall_time=1e9)
    others = [
        Scalars(4, {"a": 1.0}, wall_time=1e9),
        Scalars(3, {"a": 1.5}, wall_time=1e9),
        Scalars(3, {"b": 1.0}, wall_time=1e9),
        Scalars(3, {"a": 1.0}, wall_time=1e9 + 0.001),
        Scalars(3, {"a": 1.0}),  # without a time nothing can be known again
    ]
    for records in ([first, others[-1]], others):
        backend = WandbBackend(mode="offline")
        backend.open_run(run)
        backend.log_scalars(run, records)
        backend.close_run(run, "finished")

    stored = read_run(run).scalars
    assert sorted(stored[None, "a"]) == [(3, 1.0), (3, 1.0), (3, 1.0), (3, 1.0), (3, 1.5), (4, 1.0)]
    assert stored[None, "b"] == [(3, 1.0)]


def test_a_resumed_run_removes_rows_of_every_lane_that_were_not_uploaded(make_run) -> None:
    run = make_run()
    backend = WandbBackend(mode="offline")
    backend.open_run(run)
    for lane in (None, 0, 1):
        backend.log_scalars(run, [Scalars(step, {"a": step}, lane=lane) for step in range(10)])
    backend.close_run(run, "failed")
    [uploaded] = [log for log in find_logs(run.directory / "wandb", run.id) if "_001" in log.name]
    uploaded.with_name(f"{uploaded.name}.synced").touch()

    resumed = WandbBackend(mode="offline")
    resumed.open_run(dataclasses.replace(run, resume_step=4))
    resumed.log_scalars(run, [Scalars(4, {"a": 40})])
    resumed.close_run(run, "finished")

    kept = [(step, step) for step in range(4)]
    assert read_run(run).scalars == {
        (None, "a"): [*kept, (4, 40)],
        (0, "a"): kept,
        (1, "a"): [(step, step) for step in range(10)],
    }


def test_wandb_sync_uploads_a_log_whose_rows_were_removed(make_run, server, tmp_path) -> None:
    run = make_run()
    backend = WandbBackend(mode="offline", project="p", entity="team")
    backend.open_run(run)
    backend.log_hparams(run, {"lr": 0.5})
    tags = [f"tag/{index}" for index in range(500)]  # records of several blocks
    backend.log_scalars(run, [Scalars(step, dict.fromkeys(tags, step)) for step in range(20)])
    backend.close_run(run, "failed")
    [log] = find_logs(run.directory / "wandb", run.id)
    keep_records(log, lambda one: all(item.value_json != "19" for item in one.history.item))

    done = subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", str(log.parent)],
        cwd=tmp_path,
        env=os.environ
        | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    stored = server.runs[run.id]
    assert [row["env_steps"] for row in stored.rows] == list(range(19))
    assert {row["tag/499"] for row in stored.rows} == {*range(19)}
    assert stored.config["lr"]["value"] == 0.5


def record(size: int) -> Record:
    return Record(history=HistoryRecord(item=[{"key": "k", "value_json": "x" * size}]))


HEAD = b":W&B\xe1\xbe\x00"


@given(st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), max_size=8), st.integers(0, 20))
def test_the_records_that_stay_are_the_same_and_the_rest_of_the_file_is_cut(
    tmp_path_factory, sizes: list[tuple[int, bool]], torn: int
) -> None:
    path = tmp_path_factory.mktemp("log") / f"{uuid.uuid4().hex}.wandb"
    marks = iter([keep for _, keep in sizes])
    whole = bytearray(HEAD)
    for size, _ in sizes:
        append(whole, record(size).SerializeToString())
    path.write_bytes(bytes(whole) + b"\x01" * min(torn, 6))
    assert [one.ByteSize() for one in TransactionLog(path).read_new()] == [
        record(size).ByteSize() for size, _ in sizes
    ]

    keep_records(path, lambda _: next(marks))

    expected = [record(size) for size, keep in sizes if keep]
    assert [*TransactionLog(path).read_new()] == expected
    assert [*read_log(path)] == expected  # by a reader of its own


def test_a_log_that_grows_is_read_on(tmp_path) -> None:
    path = tmp_path / "run-1.wandb"
    log = TransactionLog(path)
    assert [*log.read_new()] == []
    whole = bytearray(HEAD)
    for size in (10, 70_000):
        before = len(whole)
        append(whole, record(size).SerializeToString())
        path.write_bytes(whole[: before + 9])
        assert [*log.read_new()] == []
        path.write_bytes(whole)
        assert [*log.read_new()] == [record(size)]
