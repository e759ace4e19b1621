"""The distribution that `metriplex new-backend` writes from the template."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from metriplex import ConfigurationError
from metriplex.commands.main import main
from metriplex.commands.new_backend import new_backend
from metriplex.plugins.discovery import PUBLISHED


def test_generated_names_follow_the_name_of_the_backend(tmp_path: Path) -> None:
    target = new_backend("my-tracker", tmp_path)
    assert target == tmp_path / "metriplex-my-tracker"
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "pyproject.toml",
        "src/metriplex_my_tracker/__init__.py",
        "src/metriplex_my_tracker/backend.py",
        "src/metriplex_my_tracker/contract.py",
        "src/metriplex_my_tracker/py.typed",
        "tests/test_contract.py",
    }
    for file in files:
        text = (target / file).read_text()
        assert "template" not in text.lower(), file
        if file.endswith(".py"):
            ast.parse(text)
    project = tomllib.loads((target / "pyproject.toml").read_text())["project"]
    assert project["name"] == "metriplex-my-tracker"
    assert project["entry-points"] == {
        "metriplex.backends": {"my-tracker": "metriplex_my_tracker:MyTrackerBackend"},
        "metriplex.contracts": {"my-tracker": "metriplex_my_tracker.contract:Contract"},
    }


@pytest.mark.parametrize("name", ["", "My", "1st", "a b", "../x", "a/b", "class", "a--b", "-a"])
def test_a_name_that_can_not_be_used_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="the name of a backend must be lower-case"):
        new_backend(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [*PUBLISHED["backend"], *PUBLISHED["renderer"], "pytest", "installed-one", "alone"]
)
def test_a_name_that_is_published_or_installed_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installing the new distribution would replace the plugin, or a module of metriplex itself."""
    site = tmp_path / "site"
    for project, entry in (("installed_one", ""), ("other", "[metriplex.backends]\nalone = x:X\n")):
        info = site / f"metriplex_{project}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: metriplex-{project}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(site))
    for spelling in {name, name.replace("-", "_")}:
        with pytest.raises(ConfigurationError, match=f"`{spelling}` is taken: .* another name"):
            new_backend(spelling, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_existing_directory_is_not_changed(tmp_path: Path) -> None:
    mine = new_backend("mine", tmp_path) / "README.md"
    mine.write_text("changed")
    with pytest.raises(ConfigurationError, match="exists already"):
        new_backend("mine", tmp_path)
    assert mine.read_text() == "changed"


def test_the_command_prints_the_next_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-backend", "mine", "--directory", str(tmp_path / "new")]) == 0
    assert f"pip install -e '{tmp_path}/new/metriplex-mine[testing]'" in capsys.readouterr().out
    assert main(["new-backend", "No!", "--directory", str(tmp_path)]) == 2
    assert "the name of a backend must be" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["new-backend", "mine", "--directory", str(tmp_path / "file")]) == 2
    assert "choose another `--directory`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_generated_backend_passes_the_contract_once_installed(tmp_path: Path) -> None:
    target = new_backend("my-tracker", tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    # Use the packages of this environment, also editable ones, without installing them again.
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, "-m", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("pip", "install", "-q", "--no-deps", "--no-build-isolation", str(target))
    assert "my-tracker" in run("metriplex", "plugins")
    options = ["-q", "-n", "0", "-W", "error", "-p", "no:cacheprovider"]
    chosen = ["--metriplex-backend", "my-tracker", "--metriplex-results", "results.json"]
    run("pytest", *options, "--pyargs", "metriplex.testing", *chosen)
    outcomes: dict[str, set[str]] = {}
    for test in json.loads((tmp_path / "results.json").read_text()):
        assert test["backend"] == "my-tracker"
        outcomes.setdefault(test["outcome"], set()).add(test["test"])
    assert outcomes.keys() == {"passed", "skipped"}
    assert {"test_floats_are_exact", "test_what_is_flushed_survives_a_sigkill"} < outcomes["passed"]
    kinds = ("video", "image", "hist", "art", "a_kill")
    assert all(any(kind in test for kind in kinds) for test in outcomes["skipped"])
    assert "passed" in run("pytest", *options, str(target))
