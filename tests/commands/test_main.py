from __future__ import annotations

import subprocess
import sys
import types
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from metriplex.commands.main import main, plugin_table
from metriplex.errors import (
    ConfigurationError,
    MetriplexError,
    NonFiniteError,
    PluginError,
    TransientError,
)
from metriplex.plugins.report import PluginReport

if TYPE_CHECKING:
    from pathlib import Path

GOOD = PluginReport(
    "backend", "good", "metriplex-good", "1.0", ("open_run", "log_scalars", "close_run"), None
)
PLAIN = PluginReport("environment", "gym", "metriplex-gym", "0.2.0", (), None)
BAD = PluginReport("renderer", "bad", "bad", "3", (), "ImportError: no libGL.so.1: try `apt-get`")


def install(site: Path, name: str, source: str) -> None:
    """Install a real distribution with one backend into a folder for `sys.path`."""
    info = site / f"metriplex_{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: metriplex-{name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[metriplex.backends]\n{name} = cli_{name}:Plugin\n")
    (site / f"cli_{name}.py").write_text(source)


def fake_demo(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None, status: int = 0
) -> dict[str, object]:
    """Replace the demo, which trains for a minute; return the arguments of its calls."""
    seen: dict[str, object] = {}

    def run(**arguments: object) -> int:
        seen.update(arguments)
        if error is not None:
            raise error
        return status

    module = types.ModuleType("metriplex.demo")
    vars(module)["run"] = run
    monkeypatch.setitem(sys.modules, "metriplex.demo", module)
    return seen


def test_the_table_aligns_columns_and_puts_the_reason_below_a_broken_plugin() -> None:
    assert plugin_table([GOOD, BAD, PLAIN], 80).splitlines() == [
        "KIND         NAME  DISTRIBUTION    VERSION  HOOKS",
        "backend      good  metriplex-good  1.0      open_run, log_scalars, close_run",
        "renderer     bad   bad             3        BROKEN",
        "    ImportError: no libGL.so.1: try `apt-get`",
        "environment  gym   metriplex-gym   0.2.0    -",
    ]


def test_the_table_wraps_at_the_width_of_the_terminal() -> None:
    lines = plugin_table([GOOD, BAD], 52).splitlines()
    assert lines == [
        "KIND      NAME  DISTRIBUTION    VERSION  HOOKS",
        "backend   good  metriplex-good  1.0      open_run,",
        "                                         log_scalars,",
        "                                         close_run",
        "renderer  bad   bad             3        BROKEN",
        "    ImportError: no libGL.so.1: try `apt-get`",
    ]
    assert "libGL" in plugin_table([BAD], 1)


def test_no_plugins_at_all_says_how_to_install_one() -> None:
    assert "pip install metriplex-tensorboard" in plugin_table([], 80)


def test_plugins_lists_good_and_broken_ones_and_succeeds(tmp_path: Path) -> None:
    install(
        tmp_path,
        "fine",
        "import metriplex\n"
        "class Plugin:\n"
        "    @metriplex.hookimpl\n"
        "    def log_scalars(self, records): ...\n",
    )
    install(tmp_path, "broken", "raise SystemExit('licence expired')")
    done = subprocess.run(
        [sys.executable, "-m", "metriplex", "plugins"],
        env={"PYTHONPATH": str(tmp_path), "COLUMNS": "80", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["KIND", "NAME", "DISTRIBUTION", "VERSION", "HOOKS"]
    assert ["backend", "fine", "metriplex-fine", "1.2", "log_scalars"] in rows
    assert ["backend", "broken", "metriplex-broken", "1.2", "BROKEN"] in rows
    assert "SystemExit: licence expired" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""


def test_ctrl_c_exits_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    install(tmp_path, "stopped", "import signal\nsignal.raise_signal(signal.SIGINT)")
    done = subprocess.run(
        [sys.executable, "-m", "metriplex", "plugins"],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "\nmetriplex: interrupted\n"


def test_a_reader_that_stops_early_causes_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "metriplex", "plugins"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_the_demos_exit_status_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_demo(monkeypatch, status=1)
    assert main(["demo"]) == 1


def test_demo_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_demo(monkeypatch)
    assert main(["demo"]) == 0
    assert seen == {
        "env": "cartpole",
        "log_dir": "logs",
        "seed": 0,
        "backends": ["tensorboard", "console"],
        "videos": True,
        "open_browser": False,
    }
    options = [
        "--env",
        "pendulum",
        "--no-videos",
        "--log-dir",
        "x",
        "--seed",
        "7",
        "--open",
        "--backend",
        "a",
        "--backend",
        "b",
    ]
    assert main(["demo", *options]) == 0
    assert seen == {
        "env": "pendulum",
        "log_dir": "x",
        "seed": 7,
        "backends": ["a", "b"],
        "videos": False,
        "open_browser": True,
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PluginError("no `x`"), 2),
        (ConfigurationError("no `x`"), 2),
        (NonFiniteError("no `x`"), 1),
        (TransientError("no `x`"), 1),
        (MetriplexError("no `x`"), 1),
    ],
)
def test_errors_of_metriplex_are_one_line_and_a_status(
    error: MetriplexError,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_demo(monkeypatch, error)
    assert main(["demo"]) == status
    assert capsys.readouterr() == ("", "metriplex: error: no `x`\n")


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_demo(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_the_demo_names_a_backend_that_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--log-dir", str(tmp_path), "--backend", "no-such"]) == 2
    error = capsys.readouterr().err
    assert "`no-such` is not installed" in error
    assert "pip install" not in error
    assert list(tmp_path.iterdir()) == []


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"metriplex {metadata.version('metriplex')}\n"


@pytest.mark.parametrize("argv", [[], ["train"], ["demo", "--seed", "x"], ["plugins", "--all"]])
def test_unknown_arguments_are_a_usage_error(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: metriplex" in capsys.readouterr().err
