"""Everything that takes a run's name or directory finds the run in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from journal.strategies import write
from metriplex import ConfigurationError, MetricsCallback, Scalars, read
from metriplex.commands import replay as replay_command
from metriplex.commands.main import main
from metriplex.journal.finding import find_run

if TYPE_CHECKING:
    from collections.abc import Callable

HERE, RUNS = ".", "runs"
"""The working directory, and the `log_dir` of these tests."""


def resume(run: str) -> Path:
    with MetricsCallback(resume=run, log_dir=RUNS, backends=[]) as metrics:
        return metrics.directory.parent


def read_back(run: str) -> Path:
    return read(run, RUNS).run.directory.parent


def replay(run: str) -> Path:
    found: list[Path] = []

    def keep(run_dir: Path, *_: Any, **__: Any) -> list[Any]:
        found.append(run_dir)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_command, "replay_run", keep)
        assert main(["replay", run, "--log-dir", RUNS, "--to", "console"]) == 0
    return found[0].parent


def export(run: str) -> Path:
    assert main(["export", run, "--log-dir", RUNS, "--to", "csv", "--output", "run.csv"]) == 0
    return Path(Path("run.csv").read_text().splitlines()[0].rpartition(",")[2])  # the run's tag


FINDERS: dict[str, Callable[[str], Path]] = {
    "resume": resume,
    "read": read_back,
    "replay": replay,
    "export": export,
}


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize(
    ("run", "with_journal", "expected"),
    [
        ("walk", [HERE, RUNS], RUNS),
        ("walk", [RUNS], RUNS),
        ("walk", [HERE], HERE),
        ("./walk", [HERE, RUNS], HERE),
        ("walk/", [HERE, RUNS], HERE),
        ("walk/", [RUNS], RUNS),
        ("runs/walk", [HERE, RUNS], RUNS),
        ("../here/walk", [HERE, RUNS], HERE),
    ],
)
def test_a_name_is_a_run_under_log_dir_and_a_path_is_a_path(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finder: str,
    run: str,
    with_journal: list[str],
    expected: str,
) -> None:
    work = tmp_path / "here"
    for place in (HERE, RUNS):
        (work / place / "walk").mkdir(parents=True)
        if place in with_journal:
            write(work / place / "walk", [Scalars(1, {str(work / place): 1.0})])
    monkeypatch.chdir(work)
    assert FINDERS[finder](run).samefile(work / expected)


@pytest.mark.parametrize("finder", FINDERS)
def test_both_places_are_named_where_no_run_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    finder: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walk").mkdir()
    # A command reports the error and exits with status 2, which its finder does not expect.
    with pytest.raises((ConfigurationError, AssertionError)) as caught:
        FINDERS[finder]("walk")
    said = str(caught.value) + capsys.readouterr().err
    assert "there is no journal in 'runs/walk' or 'walk': give the directory of a run" in said
    assert "or its name under `runs/`" in said


def test_the_default_is_logs_and_an_absolute_path_is_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for place in ("logs/walk", "home/walk", "logs"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        write(tmp_path / place, [])
    assert find_run("walk") == tmp_path / "logs" / "walk"
    assert find_run(Path("walk"), "home") == tmp_path / "home" / "walk"
    assert find_run("~/walk") == tmp_path / "home" / "walk"
    assert find_run(tmp_path / "home" / "walk", "logs") == tmp_path / "home" / "walk"
    with pytest.raises(ConfigurationError, match=f"no journal in '{tmp_path}/none': give the"):
        find_run(tmp_path / "none")
    monkeypatch.chdir(tmp_path / "logs")
    assert find_run(".") == Path.cwd()
