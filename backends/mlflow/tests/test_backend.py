"""The hooks' records, read back from a tracking server."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("mlflow")

import mlflow
from mlflow.exceptions import MlflowException

from metriplex import (
    Artifact,
    ClosedError,
    ConfigurationError,
    Histogram,
    Image,
    Lane,
    LoggingError,
    Scalars,
    Text,
    Video,
)
from metriplex_mlflow import MlflowBackend

if TYPE_CHECKING:
    from pathlib import Path


NOW = 1_700_000_000.0
FLOATS = [0.0, -2.5, 1 / 3, 1e300, 5e-324, 1e-40, math.inf, -math.inf, math.nan]


def tags_of(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def test_scalars_are_metrics_with_time_and_step(make_backend, make_run, ask, find) -> None:
    backend, run = make_backend(experiment="e", tags={"team": "blue"}), make_run()
    backend.open_run(run)
    backend.log_scalars(
        run,
        [
            Scalars(5_000_000_000, {"episode/return": 0.5, "n": 3}, wall_time=NOW),
            Scalars(5_000_000_128, {"episode/return": 0.25, "flag": True}, wall_time=NOW + 1.2344),
        ],
    )
    backend.close_run(run, "finished")

    stored = find(run.id)
    info = stored["info"]
    asked = {"run_id": info["run_id"], "metric_key": "episode/return", "max_results": 100}
    history = ask("metrics/get-history", **asked)
    assert [(m["step"], m["value"], m["timestamp"]) for m in history["metrics"]] == [
        (5_000_000_000, 0.5, 1_700_000_000_000),
        (5_000_000_128, 0.25, 1_700_000_001_234),
    ]
    newest = {metric["key"]: metric["value"] for metric in stored["data"]["metrics"]}
    assert newest == {"episode/return": 0.25, "n": 3, "flag": 1}
    assert (info["status"], info["run_name"]) == ("FINISHED", "run")
    assert info["start_time"] == round(run.start_time * 1000)
    assert info["end_time"] >= info["start_time"]
    assert tags_of(stored)["team"] == "blue"
    experiment = ask("experiments/get", experiment_id=info["experiment_id"])
    assert experiment["experiment"]["name"] == "e"


def test_values_are_exact_as_float64(make_backend, make_run, read) -> None:
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    values = [*FLOATS, 2**53 + 1, 10**400, -(10**400)]
    backend.log_scalars(run, [Scalars(i, {"a": v}) for i, v in enumerate(values)])
    backend.flush(run)

    largest = sys.float_info.max  # MLflow's stores replace infinity by it
    expected = [*FLOATS[:-3], largest, -largest, math.nan, 2.0**53, largest, -largest]
    assert repr(read(run).scalars[None, "a"]) == repr(list(enumerate(expected)))
    backend.close_run(run, "finished")


def test_more_than_a_request_holds(make_backend, make_run, read) -> None:
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    records = [Scalars(i, {f"tag_{j}": i + j / 8 for j in range(70)}, lane=0) for i in range(40)]
    backend.log_scalars(run, records[:15])
    backend.log_scalars(run, records[15:])
    backend.close_run(run, "failed")

    stored = read(run)
    assert stored.status == "failed"
    assert stored.scalars == {
        (0, f"tag_{j}"): [(i, i + j / 8) for i in range(40)] for j in range(70)
    }


def test_names_of_any_kind_and_length(make_backend, make_run, read) -> None:
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    tags = ["../x", "/", "a//b", "100%", "损失/θ", "🙂", "a\0b", "\ud800", "X", "x"]
    tags += ["l" * 250, "l" * 251, "l" * 20_000 + "a", "l" * 20_000 + "b", "é" * 200]
    backend.log_scalars(run, [Scalars(3, {tag: i for i, tag in enumerate(tags)})])
    backend.log_text(run, Text(3, tags[-2], "text"))
    backend.log_hparams(run, dict.fromkeys(tags, 1))
    backend.close_run(run, "finished")

    stored = read(run)
    assert stored.scalars == {(None, tag): [(3, i)] for i, tag in enumerate(tags)}
    assert stored.texts == {(None, tags[-2]): [(3, "text")]}
    assert stored.hparams == dict.fromkeys(tags, 1)


def test_lanes_are_child_runs(make_backend, make_run, read, find) -> None:
    backend, run = make_backend(tags={"team": "blue"}), make_run()
    backend.open_run(run)
    for step in range(3):
        backend.log_scalars(run, [Scalars(step, {"a": step + lane}, lane=lane) for lane in (0, 7)])
        backend.log_scalars(run, [Scalars(step, {"a": -step})])
    backend.log_text(run, Text(9, "note", "of a lane", lane=12))
    backend.close_run(run, "interrupted")

    parent, child = find(run.id), find(f"{run.id}/seed_007")
    assert child["info"]["run_name"] == "seed_007"
    assert child["info"]["status"] == parent["info"]["status"] == "KILLED"
    assert tags_of(child)["mlflow.parentRunId"] == parent["info"]["run_id"]
    assert tags_of(child)["team"] == "blue"
    stored = read(run)
    assert stored.scalars == {
        (None, "a"): [(0, 0), (1, -1), (2, -2)],
        (0, "a"): [(0, 0), (1, 1), (2, 2)],
        (7, "a"): [(0, 7), (1, 8), (2, 9)],
    }
    assert stored.texts == {(12, "note"): [(9, "of a lane")]}


def test_hparams_are_params_cut_and_a_file_whole(make_backend, make_run, read, find) -> None:
    hparams = {
        "lr": 3e-4,
        "layers": 2,
        "norm": True,
        "env": "CartPole-v1",
        "empty": "",
        "a%": "\0",
        "long": "θ" * 6001,
        "fits": "x" * 6000,
        "nan": math.nan,
        **{f"many/{i}": "🙂" * 4000 for i in range(120)},
    }
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    backend.log_hparams(run, hparams)
    backend.log_hparams(run, {"lr": 1.0, "late": 1})
    backend.close_run(run, "finished")

    expected = {**hparams, "lr": 1.0, "late": 1}
    assert repr(read(run).hparams) == repr(expected)
    data = find(run.id)["data"]
    params = {param["key"]: param["value"] for param in data["params"]}
    assert len(params) == len(expected)
    assert params["lr"] == "0.0003"
    assert params["norm"] == "True"
    assert params["a_x0025_"] == "\ufffd"
    assert params["fits"] == "x" * 6000
    assert params["long"] == "θ" * 5997 + "..."


def test_media_are_artifacts(make_backend, make_run, read, tmp_path: Path, ask, find) -> None:
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    frames = np.full((3, 16, 16, 3), 100, np.uint8)
    pixels = np.arange(5 * 300 * 3, dtype=np.uint8).reshape(5, 300, 3)
    counts, edges = np.array([1, 2**40]), np.array([-0.1, 0.0, 1 / 3])
    (tmp_path / "dir" / "in#ner").mkdir(parents=True)
    (tmp_path / "dir" / "in#ner" / "100%? é").write_bytes(b"inner")
    (tmp_path / "dir" / "file").write_bytes(b"\0\1")
    for _ in range(2):  # a worker calls again if it got no answer
        backend.log_text(run, Text(1, "notes/a", "# Hello\nθ"))
        backend.log_video(run, Video(2**40, "eval/video", frames, 10.0))
        backend.log_image(run, Image(3, "eval/picture", pixels, wall_time=NOW))
        backend.log_histogram(run, Histogram(4, "weights", counts, edges))
        backend.log_artifact(run, Artifact(5, "policy", tmp_path / "dir"))
    backend.log_artifact(run, Artifact(6, "policy/file", tmp_path / "dir" / "file"))
    backend.log_text(run, Text(1, "notes/a", "another at the same step"))
    backend.close_run(run, "finished")

    stored = read(run)
    texts = {"# Hello\nθ", "another at the same step"}
    assert {text for _, text in stored.texts[None, "notes/a"]} == texts
    assert len(stored.texts[None, "notes/a"]) == 2
    [(step, clip)] = stored.videos[None, "eval/video"]
    assert (step, clip[4:8]) == (2**40, b"ftyp")
    [(step, got)] = stored.images[None, "eval/picture"]
    assert step == 3
    np.testing.assert_array_equal(got, pixels)
    [(step, *histogram)] = stored.histograms[None, "weights"]
    assert step == 4
    np.testing.assert_array_equal(histogram[0], counts)
    np.testing.assert_array_equal(histogram[1], edges)
    assert stored.artifacts == {
        (None, "policy/file"): [(5, b"\0\1"), (6, b"\0\1")],
        (None, "policy/in#ner/100%? é"): [(5, b"inner")],
    }
    shown = find(run.id)
    assert tags_of(shown)["mlflow.loggedImages"] == "True"
    listed = ask("artifacts/list", run_id=shown["info"]["run_id"], path="images")["files"]
    names = [file["path"] for file in listed]
    stem = "images/eval~picture+step+3+timestamp+1700000000000+"
    assert [name.startswith(stem) for name in names] == [True, True]
    assert sorted(name.rpartition(".")[2] for name in names) == ["png", "webp"]


def test_lanes_have_names_and_hparams_of_their_own(make_backend, make_run, find) -> None:
    lanes = (Lane("fast", {"lr": 0.5}), Lane("slow", {"lr": 0.25}))
    backend, run = make_backend(), dataclasses.replace(make_run(), lanes=lanes)
    backend.open_run(run)
    backend.log_hparams(run, {"gamma": 0.99})
    backend.close_run(run, "finished")

    found = [find(f"{run.id}/seed_{lane:03d}") for lane in (0, 1)]
    assert [child["info"]["run_name"] for child in found] == ["fast", "slow"]
    params = [{p["key"]: p["value"] for p in child["data"]["params"]} for child in found]
    assert params == [{"gamma": "0.99", "lr": "0.5"}, {"gamma": "0.99", "lr": "0.25"}]


def test_two_runs_at_once_and_no_global_state(make_backend, make_run, read, capfd) -> None:
    backend, threads = make_backend(), threading.enumerate()
    uri = mlflow.get_tracking_uri()
    runs = [make_run(), make_run()]
    for run in runs:
        backend.open_run(run)
    for number, run in enumerate(runs):
        backend.log_scalars(run, [Scalars(1, {"a": number})])
    for run in runs:
        backend.close_run(run, "finished")
        backend.close_run(run, "finished")

    assert [read(run).scalars for run in runs] == [{(None, "a"): [(1, i)]} for i in range(2)]
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == uri
    assert set(threading.enumerate()) <= set(threads)
    assert capfd.readouterr().out == ""
    with pytest.raises(ClosedError, match="was closed"):
        backend.log_scalars(runs[0], [Scalars(2, {"a": 1})])
    with pytest.raises(ClosedError, match="was closed"):
        backend.open_run(runs[0])


def test_what_cannot_be_stored_harms_nothing_else(make_backend, make_run, read, tell, find) -> None:
    backend, run = make_backend(), make_run()
    with pytest.raises(ClosedError, match="is not open"):
        backend.flush(run)
    backend.open_run(run)
    with pytest.raises(LoggingError, match="steps from"):
        backend.log_scalars(run, [Scalars(1, {"a": 1.0}), Scalars(2**63, {"a": 2.0})])
    with pytest.raises(LoggingError, match="empty"):
        backend.log_scalars(run, [Scalars(1, {"": 1.0})])
    backend.log_scalars(run, [Scalars(1, {"a": 1.0})])
    run_id = find(run.id)["info"]["run_id"]
    tell("runs/delete", run_id=run_id)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        backend.flush(run)
    tell("runs/restore", run_id=run_id)
    backend.log_scalars(run, [Scalars(2, {"a": 2.0})])
    with pytest.raises(ConfigurationError, match="`status`"):
        backend.close_run(run, "done")
    backend.close_run(run, "finished")

    assert read(run).scalars == {(None, "a"): [(2, 2.0)]}


def test_experiment_that_was_deleted(make_backend, make_run, ask, tell) -> None:
    backend = make_backend(experiment="gone")
    backend.open_run(make_run())
    experiment = ask("experiments/get-by-name", experiment_name="gone")["experiment"]
    tell("experiments/delete", experiment_id=experiment["experiment_id"])

    with pytest.raises(ConfigurationError, match="experiment `gone` was deleted"):
        make_backend(experiment="gone").open_run(make_run())


def test_diagnosis(server, make_backend) -> None:
    found = make_backend(experiment="new").diagnose()
    assert found.works
    assert f"{server.uri} answers, experiment `new`, to be created" in found.summary

    missing = MlflowBackend("http://127.0.0.1:9").diagnose()
    assert not missing.works
    assert "MLflow at http://127.0.0.1:9 can't be used now" in missing.summary
    assert "`mlflow server`" in missing.remedy


def test_defaults_are_mlflows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    backend = MlflowBackend()
    assert (backend.tracking_uri, backend.experiment) == ("http://127.0.0.1:9", "mine")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert MlflowBackend().experiment == "metriplex"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flush_secs": 0}, "`flush_secs` must be a positive"),
        ({"timeout_secs": math.nan}, "`timeout_secs` must be a positive"),
        ({"tags": {"seed": 3}}, r"`tags` must be strings by name; got 'seed': 3"),
        ({"tracking_uri": "http:///x"}, "must be an address"),
    ],
)
def test_arguments_that_are_not_usable(options, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MlflowBackend(**options)


def test_json_of_a_histogram(make_backend, make_run, server, find) -> None:
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    backend.log_histogram(run, Histogram(7, "w", np.array([3]), np.array([0.0, 0.1])))
    [path] = server.artifacts.rglob(f"{find(run.id)['info']['run_id']}/**/*.json")
    assert json.loads(path.read_text()) == {
        "tag": "w",
        "step": 7,
        "counts": [3],
        "edges": [0.0, 0.1],
    }
    assert path.name.startswith("step_000000000007_")
