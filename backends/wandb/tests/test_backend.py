"""Names, config, bins and options of W&B; the contract tests everything else."""

from __future__ import annotations

import dataclasses
import json
import math
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("wandb")

from metriplex import ClosedError, ConfigurationError, Histogram, Lane, Scalars
from metriplex_wandb import WandbBackend
from metriplex_wandb.contract import read_log, read_run

if TYPE_CHECKING:
    from metriplex import RunInfo


def written(run: RunInfo, suffix: str = "") -> dict[str, list[Any]]:
    """Return the records of a run's only file, by kind."""
    [path] = run.directory.glob(f"wandb/*/run-{run.id}{suffix}.wandb")
    found: dict[str, list[Any]] = {}
    for record in read_log(path):
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    return found


def configured(run: RunInfo, suffix: str = "") -> list[dict[str, Any]]:
    return [
        {item.key: json.loads(item.value_json) for item in config.update}
        for config in written(run, suffix)["config"]
    ]


def test_entry_point_gives_a_backend_with_every_hook() -> None:
    [entry_point] = entry_points(group="metriplex.backends", name="wandb")

    assert entry_point.load() is WandbBackend
    marked = {
        name for name in dir(WandbBackend) if hasattr(getattr(WandbBackend, name), "metriplex_impl")
    }
    assert marked == {
        *("open_run", "log_hparams", "log_scalars", "log_text", "log_video", "log_image"),
        *("log_histogram", "log_artifact", "flush", "close_run", "diagnose"),
    }


def test_a_run_as_wandb_writes_it(make_run) -> None:
    backend = WandbBackend(
        mode="offline",
        project="walkers",
        tags=["a", "b"],
        notes="why",
        job_type="train",
        step_metric="frames",
    )
    run, other = make_run("name"), make_run("other")
    backend.open_run(run)
    backend.open_run(other)  # both are open
    backend.log_hparams(run, {"opt/lr": 0.5, "opt/betas/first": 0.9, "x": 1, "x/y": 2, "on": True})
    backend.log_scalars(run, [Scalars(9, {"_step": 4.5, "frames": 2}, wall_time=1.5e9)])
    backend.log_scalars(run, [Scalars(3, {"a": 1}, lane=2)])
    backend.log_hparams(run, {"opt/lr": 0.25, "seed": 7})
    backend.log_scalars(other, [Scalars(2**63 - 1, {"a": 2**63 + 1})])
    counts, edges = np.arange(1100), np.arange(1101) / 8
    backend.log_histogram(other, Histogram(0, "weights", counts, edges))
    assert "offline: nothing is uploaded" in backend.diagnose().summary
    backend.close_run(other, "interrupted")
    backend.close_run(run, "finished")

    files = written(run)
    [started] = files["run"]
    assert (started.run_id, started.display_name, started.run_group) == (run.id, "name", "name")
    assert (started.project, started.notes, started.job_type) == ("walkers", "why", "train")
    assert (list(started.tags), started.resume) == (["a", "b"], True)
    first = {"opt": {"lr": 0.5, "betas": {"first": 0.9}}, "x": 1, "x/y": 2, "on": True}
    second = first | {"opt": {"lr": 0.25, "betas": {"first": 0.9}}, "seed": 7}
    assert configured(run) == configured(run, "-seed_002") == [first, second]
    [row] = [{item.nested_key[0]: item.value_json for item in h.item} for h in files["history"]]
    del row["_runtime"]
    assert row == {
        "_step": "0",
        "_timestamp": "1.5e+09",
        "frames": "9",
        "tag/_step": "4.5",
        "tag/frames": "2",
    }
    axes = {(one.name or one.glob_name, one.step_metric) for one in files["metric"]}
    assert axes == {("frames", ""), ("*", "frames")}

    lane = written(run, "-seed_002")
    [started] = lane["run"]
    assert (started.display_name, started.run_group) == ("name-seed_002", "name")
    assert [one.exit_code for one in (*files["exit"], *lane["exit"])] == [0, 0]

    [exited] = written(other)["exit"]
    assert exited.exit_code == 255
    rows = [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in one.item}
        for one in written(other)["history"]
    ]
    assert (rows[0]["frames"], rows[0]["a"]) == (2**63 - 1, 2.0**63)
    assert len(rows[1]["weights/values"]) == 367  # W&B accepts 512: three are merged
    assert rows[1]["weights/values"][:2] == [0 + 1 + 2, 3 + 4 + 5]
    assert sum(rows[1]["weights/values"]) == counts.sum()
    assert rows[1]["weights/bins"] == [*edges[:-1:3], edges[-1]]


def test_many_lanes_and_a_thousand_late_rows_all_survive(make_run) -> None:
    backend, run = WandbBackend(mode="offline"), make_run()
    backend.open_run(run)
    rows = [
        Scalars(step, {f"{kind}/a": step / 4}, lane=lane)
        for kind, start in (("eval", 1000), ("train", 0))  # the later kind has the earlier steps
        for step in [*range(start, start + 100), start]
        for lane in range(5)
    ]
    backend.log_scalars(run, rows)
    backend.close_run(run, "finished")

    assert read_run(run).scalars == {
        (lane, f"{kind}/a"): [(step, step / 4) for step in [*range(start, start + 100), start]]
        for kind, start in (("train", 0), ("eval", 1000))
        for lane in range(5)
    }


def test_lanes_that_were_described_have_names_and_config_of_their_own(make_run) -> None:
    backend = WandbBackend(mode="offline")
    lanes = (Lane("lr=0.1", {"lr": 0.1}), Lane("lr=0.2", {"lr": 0.2}))
    run = dataclasses.replace(make_run("sweep"), lanes=lanes)
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(1, {"a": 1}, lane=1)])
    backend.log_hparams(run, {"lr": 0.0, "gamma": 0.9})
    backend.log_scalars(run, [Scalars(1, {"a": 1}, lane=0)])
    backend.close_run(run, "finished")

    assert configured(run) == [{"lr": 0.0, "gamma": 0.9}]
    assert configured(run, "-seed_000") == [{"lr": 0.1, "gamma": 0.9}]
    assert configured(run, "-seed_001") == [{"lr": 0.2}, {"lr": 0.2, "gamma": 0.9}]
    names = [written(run, f"-seed_00{lane}")["run"][0].display_name for lane in (0, 1)]
    assert names == ["sweep-lr=0.1", "sweep-lr=0.2"]


def test_use_before_open_and_after_close_is_an_error(make_run) -> None:
    backend, run = WandbBackend(mode="offline"), make_run()
    with pytest.raises(ClosedError, match="not open: call `open_run`"):
        backend.log_scalars(run, [Scalars(1, {"a": 1})])
    backend.open_run(run)
    with pytest.raises(ConfigurationError, match="`status` must be one of"):
        backend.close_run(run, "done")
    backend.close_run(run, "finished")
    backend.close_run(run, "failed")
    with pytest.raises(ClosedError, match="was closed"):
        backend.flush(run)
    with pytest.raises(ClosedError, match="was closed"):
        backend.open_run(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "disabled"}, "`mode` must be .* leave this backend out"),
        ({"tags": "a"}, r"`tags` must be a sequence .* write `\['a'\]`"),
        ({"step_metric": "_step"}, "`step_metric` must be a name that does not begin with `_`"),
        ({"step_metric": ""}, "`step_metric`"),
        ({"init_timeout": 0.0}, "`init_timeout` must be a positive number of seconds; got 0.0"),
        ({"finish_timeout": math.nan}, "`finish_timeout`"),
    ],
)
def test_an_option_that_is_not_usable_is_an_error(options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WandbBackend(**options)


def test_a_setting_that_wandb_does_not_have_is_named(make_run) -> None:
    backend = WandbBackend(mode="offline", settings={"base_ulr": "http://127.0.0.1"})

    with pytest.raises(ConfigurationError, match="base_ulr"):
        backend.open_run(make_run())
