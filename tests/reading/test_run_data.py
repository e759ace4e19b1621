from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.strategies import media_records, same, write
from metriplex import ConfigurationError, MetricsCallback, Scalars, Text, read
from metriplex.commands import export
from metriplex.commands.main import main
from metriplex.journal import Close, Hparams, Resume
from metriplex.reading.columns import occurrences, to_array

if TYPE_CHECKING:
    from pathlib import Path

    from metriplex.reading.run_data import Columns

NAN = math.nan


def lists(columns: Columns) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in columns.items()}


def equal(left: dict[str, list[Any]], right: dict[str, list[Any]]) -> bool:
    return list(left) == list(right) and all(
        same(dict(enumerate(left[n])), dict(enumerate(right[n]))) for n in left
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A resumed run with a late tag and a tag that is logged out of order."""
    write(
        tmp_path,
        [
            Hparams({"lr": 0.1, "env": "CartPole"}),
            Scalars(0, {"a": 0.5, "n": 2**60}, 0, None, 1.0),
            Scalars(10, {"a": 1.5, "n": 2}, 1, None, 2.0),
            Scalars(20, {"a": 99.0, "n": 3}, 2, None, 3.0),
            Text(20, "note", "superseded"),
            Resume(20),
            Hparams({"lr": 0.2}),
            Scalars(20, {"a": NAN, "n": 4}, 2, None, 4.0),
            Scalars(10, {"eval": True}, None, None, 5.0),
            Scalars(30, {"a": 2.5, "n": 5, "late/key": 7.0}, 3, None, 6.0),
            Text(30, "note", "kept"),
            Close("finished"),
        ],
    )
    return tmp_path


def test_a_run_is_read_back_without_what_was_superseded(run: Path) -> None:
    data = read(run)
    assert (data.run.name, data.status, data.damage) == ("run", "finished", [])
    assert data.hparams == {"lr": 0.2, "env": "CartPole"}
    assert (data.tags, data.lanes) == (["a", "n", "eval", "late/key"], [None])
    a = data.series("a")
    assert a.step.tolist() == [0, 10, 20, 30]
    assert same(dict(enumerate(a.value.tolist())), dict(enumerate([0.5, 1.5, NAN, 2.5])))
    assert a.time.tolist() == [1.0, 2.0, 4.0, 6.0]
    n = data.series("n")
    assert n.value.dtype == np.int64
    assert n.value.tolist() == [2**60, 2, 4, 5]
    assert data.series("eval").value.tolist() == [True]
    assert [(media.kind, media.tag, media.step) for media in data.media] == [("text", "note", 30)]
    assert data.media[0].load() == Text(30, "note", "kept")
    with pytest.raises(KeyError, match="it has `a`, `n`, `eval`, `late/key`"):
        data.series("loss")


def test_wide_has_one_row_per_step(run: Path) -> None:
    assert equal(
        lists(read(run).wide()),
        {
            "step": [0, 10, 20, 30],
            "iteration": [0.0, 1.0, 2.0, 3.0],
            "time": [1.0, 2.0, 4.0, 6.0],
            "a": [0.5, 1.5, NAN, 2.5],
            "n": [2**60, 2, 4, 5],
            "eval": [NAN, 1.0, NAN, NAN],
            "late/key": [NAN, NAN, NAN, 7.0],
        },
    )


def test_long_has_one_row_per_value_in_order(run: Path) -> None:
    long = lists(read(run).long())
    assert list(long) == ["step", "iteration", "time", "tag", "value"]
    assert long["tag"] == ["a", "n", "a", "n", "a", "n", "eval", "a", "n", "late/key"]
    assert long["step"] == [0, 0, 10, 10, 20, 20, 10, 30, 30, 30]
    assert long["value"][:4] == [0.5, float(2**60), 1.5, 2.0]


def test_lanes_are_a_column(tmp_path: Path) -> None:
    write(
        tmp_path,
        [Scalars(step, {"a": step + lane / 4}, 0, lane) for step in (0, 1) for lane in (2, 0)],
    )
    data = read(tmp_path)
    assert data.lanes == [0, 2]
    assert lists(data.wide())["lane"] == [0, 0, 2, 2]
    assert lists(data.wide())["a"] == [0.0, 1.0, 0.5, 1.5]
    assert lists(data.wide(2))["a"] == [0.5, 1.5]
    assert lists(data.long())["lane"] == [2, 0, 2, 0]
    assert data.series("a", 2).value.tolist() == [0.5, 1.5]


def test_a_repeated_tag_and_tags_named_like_columns(tmp_path: Path) -> None:
    write(tmp_path, [Scalars(5, {"a": 1, "step": 8}), Scalars(5, {"a": 2}), Scalars(6, {"a": 3})])
    wide = lists(read(tmp_path).wide())
    assert wide["step"] == [5, 5, 6]
    assert wide["a"] == [1, 2, 3]
    assert equal({"s": wide["tag:step"]}, {"s": [8.0, NAN, NAN]})


def test_a_run_without_scalars_and_one_that_is_open(tmp_path: Path) -> None:
    records = media_records(tmp_path)
    write(tmp_path, records)
    data = read(tmp_path)
    assert (data.status, data.tags, data.lanes) == (None, [], [])
    assert [len(column) for column in (data.wide() | data.long()).values()] == [0] * 5
    assert all(same(m.load(), record) for m, record in zip(data.media, records, strict=True))
    assert data.media[0].lane == 7


def test_a_run_is_found_by_its_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parent / "logs").mkdir()
    run.rename(run.parent / "logs" / "mine")
    monkeypatch.chdir(run.parent)
    assert read("mine").status == "finished"
    with pytest.raises(ConfigurationError, match="no journal in 'logs/other' or 'other'"):
        read("other")


def test_of_the_runs_of_a_name_the_newest_is_read_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)

    def train(name: str, time: float) -> str:
        monkeypatch.setattr("time.time", lambda: time)
        with MetricsCallback(name, backends=[], provenance=False) as metrics:
            metrics.log(1, {"started": time})
        return metrics.directory.name

    def started(*run: Any) -> float:
        caplog.clear()
        return read(*run).series("started").value.item()

    assert train("exp", 10.0) == "exp"
    assert started("exp") == 10.0
    assert caplog.messages == []
    assert (train("exp", 20.0), train("exp", 30.0)) == ("exp_2", "exp_3")
    for other in ("experiment_2", "exp_", "exp_1", "exp_02", "exp_x"):
        train(other, 99.0)
    (tmp_path / "logs/exp_4").mkdir()  # no run
    assert started("exp") == 30.0
    assert len(caplog.messages) == 1
    assert "3 runs have the name `exp`" in caplog.text
    assert str(tmp_path / "logs/exp_3") in caplog.text
    monkeypatch.setattr("time.time", lambda: 40.0)
    assert started("exp", tmp_path / "logs") == 30.0
    (tmp_path / "logs/exp_2").rename(tmp_path / "logs/exp_10")
    assert started("exp") == 30.0  # the start counts, not the number
    for path in ("logs/exp", "./logs/exp", tmp_path / "logs/exp"):
        assert started(path) == 10.0
        assert caplog.messages == []
    assert started("exp_3") == 30.0
    assert caplog.messages == []
    assert main(["export", "exp", "--to", "csv", "--output", "out.csv"]) == 0
    assert "30.0" in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(("mask", "stored"), [(True, "***"), (False, "9f86d0")])
def test_secrets_do_not_reach_the_journal(tmp_path: Path, mask: bool, stored: str) -> None:
    secret = {"api_key": "9f86d0"}
    with MetricsCallback(
        "r", log_dir=tmp_path, backends=[], hparams=secret, mask_secrets=mask
    ) as metrics:
        metrics.log_hparams({"later": secret}, mask_secrets=mask)
    assert read(tmp_path / "r").hparams == {"api_key": stored, "later/api_key": stored}


def test_data_frames(run: Path) -> None:
    data = read(run)
    frame = data.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame["n"].tolist() == [2**60, 2, 4, 5]
    assert data.to_pandas(wide=False).shape == (10, 5)
    table = data.to_polars()
    assert isinstance(table, pl.DataFrame)
    assert table.shape == (4, 7)
    assert data.to_polars(wide=False)["tag"].to_list()[-1] == "late/key"


@given(st.lists(st.integers(0, 4)))
def test_occurrences(values: list[int]) -> None:
    expected = [values[:index].count(value) for index, value in enumerate(values)]
    assert occurrences(np.array(values, np.int64)).tolist() == expected


def test_columns_are_as_narrow_as_their_values() -> None:
    assert to_array([True, False]).dtype == np.bool_
    assert to_array([1, 2**62]).dtype == np.int64
    assert to_array([1, 0.5, True]).tolist() == [1.0, 0.5, 1.0]
    assert to_array([2**70, 1]).tolist() == [2**70, 1]
    assert to_array([10**400, 1]).tolist() == [10**400, 1]


# Export ----------------------------------------------------------------------------------------


def test_csv_has_nan_where_a_late_tag_has_no_value(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = run / "out.csv"
    assert main(["export", str(run), "--to", "csv", "--output", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: 4 rows, 7 columns\n"
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["late/key"] for row in rows] == ["nan", "nan", "nan", "7.0"]
    assert [int(row["n"]) for row in rows] == [2**60, 2, 4, 5]
    frame = pd.read_csv(target)
    assert frame["a"].tolist()[:2] == [0.5, 1.5]
    assert frame["n"].tolist() == [2**60, 2, 4, 5]


def test_long_csv_to_standard_output(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", "csv", "--long", "--output", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step,iteration,time,tag,value"
    assert lines[1] == "0,0.0,1.0,a,0.5"
    assert len(lines) == 11


def test_json_lines_name_values_that_are_not_finite(run: Path) -> None:
    target = run / "out.jsonl"
    assert main(["export", str(run), "--to", "jsonl", "--output", str(target)]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows[0]["n"] == 2**60
    assert rows[2]["a"] is None
    assert rows[2]["nonfinite"]["a"] == "nan"
    assert pl.read_ndjson(target)["n"].to_list() == [2**60, 2, 4, 5]


@pytest.mark.parametrize("without", [None, "pyarrow"])
def test_parquet(run: Path, without: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if without is not None:
        monkeypatch.setitem(__import__("sys").modules, without, None)
    target = run / "out.parquet"
    assert main(["export", str(run), "--to", "parquet", "--long", "--output", str(target)]) == 0
    monkeypatch.undo()
    table = pl.read_parquet(target)
    assert table.columns == ["step", "iteration", "time", "tag", "value"]
    assert table["tag"].to_list() == read(run).long()["tag"].tolist()


def test_parquet_without_a_package_that_writes_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pyarrow", "polars"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert main(["export", str(run), "--to", "parquet", "--output", str(run / "x")]) == 2
    assert "`pip install pyarrow`" in capsys.readouterr().err


def test_export_errors_and_damage_are_printed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run / "none"), "--to", "csv"]) == 2
    assert "there is no journal in" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "csv", "--output", str(run / "no" / "x")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    path = run / "journal" / "000000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"a":1.5', b'"a":2.5'))
    assert main(["export", str(run), "--to", "csv", "--output", str(run / "x.csv")]) == 1
    assert "its checksum is wrong" in capsys.readouterr().err
    path.write_bytes(path.read_bytes().replace(b'"version"', b'"Version"'))
    assert "no segment has a header" in read(run).damage[0]
    assert read(run).series("a").step.tolist() == [0, 20, 30]
    assert export.FORMATS == ("csv", "parquet", "jsonl")


def test_a_run_says_what_it_holds(tmp_path: Path) -> None:
    with MetricsCallback("r", log_dir=tmp_path, backends=[], provenance=False) as metrics:
        metrics.log(1, {"a": 1.0, "b": 2.0})
        metrics.log(2, {"a": 1.0})
    expected = "<RunData 'r': 2 tags, 1 lanes, 2 records, status 'finished'>"
    assert repr(read(metrics.directory)) == expected
