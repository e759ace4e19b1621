from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from metriplex.commands.main import main
from metriplex.doctor.machine import check_ffmpeg, check_log_directory, check_temporary_files
from metriplex.doctor.report import Finding, layout, plain, summary
from metriplex.doctor.trials import run_trial
from metriplex.video.encode.ffmpeg import find_ffmpeg

if TYPE_CHECKING:
    from pathlib import Path

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
BACKEND = """
    import os, sys, time
    from metriplex import Diagnosis, hookimpl

    class Plugin:
        @hookimpl
        def open_run(self, run):
            self.file = open(run.directory / "values", "w")

        @hookimpl
        def log_scalars(self, records):
            self.file.write(str(records))

        @hookimpl
        def close_run(self):
            self.file.close()
"""
RENDERER = """
    import numpy as np
    from metriplex import Diagnosis, Renderer, hookimpl

    class Square(Renderer):
        def __init__(self, width, height):
            self.shape = height, width, 3

        def select(self, state):
            return {"x": state}

        def render(self, selected):
            frame = np.zeros(self.shape, np.uint8)
            frame[:, : int(selected["x"])] = 255
            return frame

        def close(self): ...

    class Plugin:
        @hookimpl
        def make_renderer(self, env, width, height):
            return Square(width, height) if env == "squares" else None

        @hookimpl
        def example_environment(self):
            return "squares", [np.int32(10), np.int32(20), np.int32(30)]
"""

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a real distribution with one plugin: a module and a `.dist-info` folder."""
    site = tmp_path / "site"

    def install(kind: str, name: str, source: str) -> None:
        info = site / f"metriplex_{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: metriplex-{name}\nVersion: 1.2\n")
        entry = f"[metriplex.{kind}s]\n{name} = doctor_{name}:Plugin\n"
        (info / "entry_points.txt").write_text(entry)
        (site / f"doctor_{name}.py").write_text(textwrap.dedent(source))
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    return install


@pytest.fixture
def fresh_ffmpeg() -> Iterator[None]:
    find_ffmpeg.cache_clear()
    yield
    find_ffmpeg.cache_clear()


def tree(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


# Plugins --------------------------------------------------------------------------------------


def test_a_backend_that_works(install: Install, tmp_path: Path) -> None:
    install("backend", "fine", BACKEND)
    finding = run_trial("backend", "fine", tmp_path / "trial")
    assert (finding.status, finding.name, finding.remedy) == ("ok", "backend fine", "")
    assert finding.text.startswith("logged a record and closed in ")
    assert "{'doctor/value': 0.5}" in (tmp_path / "trial/run/values").read_text()


@pytest.mark.long
def test_a_backend_with_diagnose_gets_no_run(install: Install, tmp_path: Path) -> None:
    diagnosis = """
        @hookimpl
        def diagnose(self):
            return Diagnosis(True, "logged in as nobody")
    """
    install("backend", "fine", BACKEND + textwrap.indent(textwrap.dedent(diagnosis), " " * 8))
    finding = run_trial("backend", "fine", tmp_path / "trial")
    assert (finding.status, finding.text) == ("ok", "logged in as nobody")
    assert not (tmp_path / "trial/run").exists()


@pytest.mark.parametrize(
    ("hook", "told", "remedy"),
    [
        ("def log_scalars(self): raise ValueError('no such table')", "no such table", ""),
        slow("def open_run(self): os._exit(3)", "ended its process (exit status 3)", ""),
        (
            "def open_run(self): print('last words', flush=True); os.abort()",
            "ended its process (Aborted): last words",
            "",
        ),
        (
            "def diagnose(self): return Diagnosis(False, 'not logged in', 'run `x login`')",
            "not logged in",
            "run `x login`",
        ),
        ("def log_scalrs(self): ...", "Did you mean `log_scalars`?", ""),
    ],
)
@pytest.mark.long
def test_backends_that_are_broken(
    install: Install, tmp_path: Path, hook: str, told: str, remedy: str
) -> None:
    source = f"{BACKEND}\n        @hookimpl\n        {hook}\n"
    install("backend", "broken", source)
    finding = run_trial("backend", "broken", tmp_path / "trial")
    assert (finding.status, finding.remedy) == ("broken", remedy)
    assert told in finding.text


def test_a_backend_that_hangs_is_ended(install: Install, tmp_path: Path) -> None:
    install("backend", "hangs", f"{BACKEND}\n        def __init__(self): time.sleep(600)\n")
    finding = run_trial("backend", "hangs", tmp_path / "trial", limit_secs=0.01)
    assert finding == Finding("broken", "backend hangs", "hangs: it was ended after 0.01 s")


@pytest.mark.long
def test_a_plugin_that_can_not_be_imported(install: Install, tmp_path: Path) -> None:
    install("environment", "gone", "import no_such_module")
    finding = run_trial("environment", "gone", tmp_path / "trial")
    assert finding.status == "broken"
    assert "No module named 'no_such_module'" in finding.text
    assert "pip install --force-reinstall metriplex-gone" in finding.text


@pytest.mark.long
def test_a_plugin_that_needs_options_is_not_tried(install: Install, tmp_path: Path) -> None:
    install("backend", "needy", f"{BACKEND}\n        def __init__(self, url, *, port=1): ...\n")
    finding = run_trial("backend", "needy", tmp_path / "trial")
    text = "not tried, as it needs the options `url`"
    assert finding == Finding("warning", "backend needy", text)


def test_a_renderer_that_works(install: Install, tmp_path: Path) -> None:
    install("renderer", "squares", RENDERER)
    finding = run_trial("renderer", "squares", tmp_path / "trial")
    assert (finding.status, finding.name) == ("ok", "renderer squares")
    assert "drew and encoded 3 frames in " in finding.text
    assert "gif" in finding.text
    assert "mp4" in finding.text


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("= 255", "= 0", "draws nothing: all its pictures are of one colour"),
        slow('int(selected["x"])', "20", "draws all states of its example alike"),
        slow("np.uint8)", "float)", "a frame must be a NumPy array of uint8; frame 0 is float64"),
        ("frame[", "import os; os._exit(3); frame[", "the drawing process died (exit status 3)"),
        ('"squares" else', '"circles" else', "no renderer draws `str`"),
    ],
)
@pytest.mark.long
def test_renderers_that_are_broken(
    install: Install, tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert RENDERER.count(old) == 1
    install("renderer", "broken", RENDERER.replace(old, new))
    finding = run_trial("renderer", "broken", tmp_path / "trial")
    assert finding.status == "broken"
    assert told in finding.text


@pytest.mark.long
def test_a_renderer_that_diagnoses_itself_as_broken(install: Install, tmp_path: Path) -> None:
    diagnosis = """
        @hookimpl
        def diagnose(self):
            return Diagnosis(False, "no OpenGL", "`apt-get install libegl1`")
    """
    source = RENDERER.replace("= 255", "= 0")  # would fail if it were tried
    source += textwrap.indent(textwrap.dedent(diagnosis), " " * 8)
    install("renderer", "blind", source)
    finding = run_trial("renderer", "blind", tmp_path / "trial")
    expected = Finding("broken", "renderer blind", "no OpenGL", "`apt-get install libegl1`")
    assert finding == expected


@pytest.mark.long
def test_a_renderer_without_an_example_is_not_tried(install: Install, tmp_path: Path) -> None:
    source = RENDERER[: RENDERER.index("        @hookimpl\n        def example")]
    install("renderer", "modest", source)
    finding = run_trial("renderer", "modest", tmp_path / "trial")
    assert finding.status == "warning"
    assert finding.text == "not tried, as it brings no `example_environment`"


@pytest.mark.long
def test_jax_is_tried_by_a_compiled_program(tmp_path: Path) -> None:
    finding = run_trial("jax", "", tmp_path / "trial")
    assert (finding.status, finding.name) == ("ok", "jax")
    assert "a compiled program's values reach the host by XLA's FFI" in finding.text


@pytest.mark.long
def test_jax_without_the_requested_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    finding = run_trial("jax", "", tmp_path / "trial")
    assert finding.status == "broken"
    assert "abacus" in finding.text


# The machine ----------------------------------------------------------------------------------


def test_the_check_of_a_log_directory_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "logs/old_run").mkdir(parents=True)
    before = tree(tmp_path)
    for log_dir in (tmp_path / "logs", tmp_path / "logs/old_run", tmp_path / "new/and/deep"):
        finding = check_log_directory(str(log_dir))
        assert finding.status in {"ok", "warning"}  # the machine may have little space left
        assert "runs get directories of their own" in finding.text
        assert tree(tmp_path) == before


def test_a_log_directory_that_is_a_file_or_can_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "logs"
    file.write_text("mine")
    for log_dir, told in [(file, "it is a file"), (file / "x", "a part of the path is a file")]:
        finding = check_log_directory(str(log_dir))
        assert finding.status == "broken"
        assert told in finding.text
    assert file.read_text() == "mine"
    assert check_log_directory("/proc/runs").status == "broken"
    assert "must be a local directory" in check_log_directory("gs://bucket/logs").text


def test_no_directory_for_temporary_files(tmp_path: Path) -> None:
    program = (
        "import os, tempfile; tempfile._candidate_tempdir_list = lambda: []\n"
        "from metriplex.doctor.machine import check_temporary_files\n"
        "print(check_temporary_files())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "broken" in done.stdout
    assert "TMPDIR" in done.stdout
    assert check_temporary_files().status in {"ok", "warning"}


@pytest.mark.usefixtures("fresh_ffmpeg")
def test_ffmpeg_that_is_there_says_its_version() -> None:
    finding = check_ffmpeg(needed=True)
    assert finding.status == "ok"
    assert any(character.isdigit() for character in finding.text.split()[0])


@pytest.mark.usefixtures("fresh_ffmpeg")
@pytest.mark.parametrize("executable", ["/no/such/ffmpeg", "/bin/false"])
def test_ffmpeg_that_does_not_run(executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", executable)
    finding = check_ffmpeg(needed=True)
    assert finding.status == "broken"
    assert executable in finding.text
    assert "IMAGEIO_FFMPEG_EXE" in finding.remedy


@pytest.mark.usefixtures("fresh_ffmpeg")
def test_no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    finding = check_ffmpeg(needed=True)
    assert finding.status == "warning"
    assert "GIFs by imageio only" in finding.text
    monkeypatch.setitem(sys.modules, "imageio", None)
    assert check_ffmpeg(needed=False).status == "warning"
    finding = check_ffmpeg(needed=True)
    assert (finding.status, finding.remedy) == ("broken", "`pip install 'metriplex[video]'`")


# Lines of findings ----------------------------------------------------------------------------


def test_findings_are_columns_and_wrap() -> None:
    finding = Finding("broken", "backend x", "it hurts here and there", "`pip install a-long-name`")
    assert layout(finding, 12, 49) == [
        "broken   backend x     it hurts here and there",
        "                       -> `pip install",
        "                       a-long-name`",
    ]
    assert layout(Finding("ok", "jax", ""), 3, 80) == ["ok       jax  "]


def test_text_is_ascii_without_escape_sequences() -> None:
    assert plain("a\n  b\t\x1b[31mred\x07 \u00e9\u2192") == r"a b [31mred \xe9\u2192"


def test_the_last_line_names_what_is_broken() -> None:
    fine, odd, bad = (Finding(status, status[:1], "") for status in ("ok", "warning", "broken"))
    assert summary([fine], 80) == ["", "Everything that is installed works."]
    assert summary([fine, odd], 80)[1].endswith("works. Mind the warnings: w.")
    assert summary([bad, odd], 80) == ["", "Broken: b. Mind the warnings: w."]


def run_doctor(*options: str, cwd: Path, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "metriplex", "doctor", *options],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_doctor_from_end_to_end(install: Install, tmp_path: Path) -> None:
    install("backend", "explodes", "raise SystemExit('licence expired \u2620')")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    broken = run_doctor(cwd=here, TMPDIR=str(there), PYTHONPATH=str(tmp_path / "site"))
    assert (broken.returncode, broken.stderr) == (1, "")
    lines = broken.stdout.splitlines()
    assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line] == []
    assert broken.stdout.isascii()
    statuses = {tuple(line.split()[:3]) for line in lines}
    assert ("broken", "backend", "explodes") in statuses
    assert ("ok", "backend", "console") in statuses
    assert ("ok", "backend", "tensorboard") in statuses
    assert "licence expired" in broken.stdout
    assert tree(here) | tree(there) == set()


@pytest.mark.long
def test_the_exit_status_is_zero_only_without_broken_findings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("backend", "renderer", "environment"):
        monkeypatch.setitem(discovery_groups(), kind, "metriplex.of_nobody")
    assert main(["doctor", "--log-dir", str(tmp_path / "logs")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Everything that is installed")
    (tmp_path / "logs").touch()
    assert main(["doctor", "--log-dir", str(tmp_path / "logs")]) == 1
    assert "Broken: log directory." in capsys.readouterr().out


def test_of_the_backends_only_the_named_ones_are_tried(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("used", "spare", "logged_out"):
        install("backend", name, BACKEND)
    tried = []

    def trial(kind: str, name: str, directory: Path) -> Finding:
        tried.append((kind, name))
        return Finding("broken" if name == "logged_out" else "ok", f"{kind} {name}", "")

    monkeypatch.setattr("metriplex.doctor.run_trial", trial)
    command = ["doctor", "--log-dir", str(tmp_path / "logs")]
    named = ["--backend", "used", "--backend", "spare", "--backend", "used"]
    assert main([*command, *named]) == 0
    assert [name for kind, name in tried if kind == "backend"] == ["spare", "used"]
    assert ("jax", "") in tried
    others = [one for one in tried if one[0] != "backend"]
    tried.clear()
    assert main(command) == 1
    assert ("backend", "logged_out") in tried
    assert [one for one in tried if one[0] != "backend"] == others
    capsys.readouterr()
    assert main([*command, "--backend", "used", "--backend", "unheard_of"]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert "backend `unheard_of` is not installed" in written.err


def discovery_groups() -> Any:
    from metriplex.plugins.discovery import GROUPS

    return GROUPS
