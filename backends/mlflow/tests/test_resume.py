"""Runs that another process continues: by a resume, by a replay, after an interruption."""

from __future__ import annotations

import pytest

pytest.importorskip("mlflow")

from metriplex import Scalars, Text

NOW = 1_700_000_000.0


def test_continued_run_supersedes(make_backend, make_run, read, find) -> None:
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(step, {"a": 1.0}, wall_time=NOW) for step in range(10)])
    backend.log_scalars(run, [Scalars(step, {"a": 1.0}, lane=0) for step in range(10)])
    backend.log_text(run, Text(8, "note", "first", wall_time=NOW))
    backend.log_hparams(run, {"long": "x" * 7000})
    backend.close_run(run, "interrupted")

    for first, value in ((4, 2.0), (6, 3.0)):
        backend, run = make_backend(), make_run(resume_step=first, id=run.id)
        backend.open_run(run)
        backend.open_run(run)
        assert find(run.id)["info"]["status"] == "RUNNING"
        # The clock was set back meanwhile.
        records = [Scalars(s, {"a": value}, wall_time=NOW - 9) for s in range(first, first + 3)]
        backend.log_scalars(run, records)
        backend.log_scalars(run, [Scalars(first, {"a": value}, lane=0)])
        backend.log_hparams(run, {"lr": value})
        backend.flush(run)
    backend.close_run(run, "finished")

    stored = read(run)
    assert stored.scalars[None, "a"] == [
        *((step, 1.0) for step in range(4)),
        *((step, 2.0) for step in (4, 5)),
        *((step, 3.0) for step in (6, 7, 8)),
    ]
    assert stored.scalars[0, "a"] == [*((step, 1.0) for step in range(4)), (4, 2.0), (6, 3.0)]
    assert stored.texts == {}
    assert stored.hparams == {"long": "x" * 7000, "lr": 3.0}
    assert stored.status == "finished"


def test_replay_appends_what_is_missing_only(make_backend, make_run, read) -> None:
    backend, run = make_backend(), make_run()
    records = [Scalars(step, {"a": step / 3}, lane=0, wall_time=NOW + step) for step in range(9)]
    backend.open_run(run)
    backend.log_scalars(run, records[:6])
    backend.flush(run)

    again = make_backend()
    again.open_run(run)
    again.log_scalars(run, records)
    again.close_run(run, "finished")

    assert read(run).scalars == {(0, "a"): [(step, step / 3) for step in range(9)]}


def test_what_a_resumed_run_catches_up_on_is_not_doubled(make_backend, make_run, read) -> None:
    """A journal delivers unacknowledged records again, before the run's new records."""
    backend, run = make_backend(), make_run()
    records = [Scalars(step, {"a": 1.0}, wall_time=NOW + step) for step in range(9)]
    backend.open_run(run)
    backend.log_scalars(run, records[:7])
    backend.log_scalars(run, [Scalars(0, {"a": 1.0}, lane=0)])
    backend.flush(run)

    backend, again = make_backend(), make_run(resume_step=5, id=run.id)
    backend.open_run(again)
    backend.log_scalars(again, records[2:5])
    backend.log_scalars(again, [Scalars(5, {"a": 2.0}, wall_time=NOW + 60)])
    backend.close_run(again, "finished")
    backend = make_backend()
    backend.open_run(run)
    backend.log_scalars(run, [*records[:5], Scalars(5, {"a": 2.0}, wall_time=NOW + 60)])
    backend.close_run(run, "failed")

    stored = read(run)
    assert stored.scalars[None, "a"] == [*((step, 1.0) for step in range(5)), (5, 2.0)]
    assert stored.scalars[0, "a"] == [(0, 1.0)]


def test_lanes_that_log_no_more_end_too(make_backend, make_run, find) -> None:
    backend, run = make_backend(), make_run()
    backend.open_run(run)
    backend.log_scalars(run, [Scalars(0, {"a": 1.0}, lane=0)])
    again = make_backend()
    again.open_run(run)
    again.close_run(run, "failed")

    assert find(f"{run.id}/seed_000")["info"]["status"] == "FAILED"
