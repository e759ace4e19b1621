from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from metriplex_mujoco import Diagnosis, NoGLError, Probe, gl

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl, "_answers", {})
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)


@pytest.mark.long
def test_what_works_is_found_once_a_process(
    gl: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from metriplex_mujoco.gl import choose_backend, diagnose

    first = diagnose()
    assert first.works
    assert first.remedy == ""
    assert first.backend == first.probes[-1].backend
    assert all(not probe.works for probe in first.probes[:-1])
    assert first.probes[-1].detail in str(first)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no interpreter"))
    assert diagnose() == first
    assert choose_backend() == first.backend


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
@pytest.mark.long
def test_what_the_user_chose_is_taken(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not gl.probe(backend).works:
        pytest.skip(f"{backend} doesn't work here: {gl.probe(backend).detail}")
    monkeypatch.setenv("MUJOCO_GL", f" {backend.upper()} ")
    found = gl.diagnose()
    assert found.backend == backend
    assert [probe.backend for probe in found.probes] == [backend]
    assert "as `MUJOCO_GL` asks" in found.summary


@pytest.mark.parametrize("value", ["off", "Disabled", "0", "directx"])
def test_what_the_user_forbade_is_not_tried(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    found = gl.diagnose()
    assert not found.works
    assert found.probes == ()
    assert f"`MUJOCO_GL={value}`" in found.summary
    with pytest.raises(NoGLError, match="Unset it, or set it to"):
        gl.choose_backend()


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa are Linux's")
def test_where_nothing_draws_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")
    with pytest.raises(NoGLError, match=r"EGL: ImportError: .*; OSMESA: ImportError") as caught:
        gl.choose_backend()
    assert "Unset `PYOPENGL_PLATFORM`, which is 'glx'" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and OSMesa are Linux's")
@pytest.mark.long
def test_without_a_driver_of_egl_osmesa_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere.json")
    found = gl.diagnose()
    assert [probe.backend for probe in found.probes] == ["egl", "osmesa"]
    assert not found.probes[0].works
    if found.probes[1].works:
        assert found.backend == "osmesa"
    else:
        assert "`apt-get install libegl1 libgl1`" in found.remedy
        assert "`apt-get install libosmesa6`" in found.remedy
    monkeypatch.setenv("MUJOCO_GL", "egl")
    forced = gl.diagnose()
    assert forced.backend is None
    assert forced.probes == found.probes[:1]
    assert forced.remedy == (
        "On Debian and Ubuntu install for EGL `apt-get install libegl1 libgl1`, or unset "
        "`MUJOCO_GL`."
    )


def _fake_opengl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A package `OpenGL` that child processes find instead of PyOpenGL."""
    (tmp_path / "OpenGL").mkdir(exist_ok=True)
    (tmp_path / "OpenGL" / "__init__.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashed with SIGSEGV"),
        ("import os; os._exit(3)", "exited with 3"),
        ("raise OSError('no driver')", "OSError: no driver"),
        ("None.eglQueryString", "its library is not installed (AttributeError: 'NoneType' object"),
    ],
)
@pytest.mark.long
def test_a_driver_may_fail_in_any_way(
    source: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_opengl(tmp_path, monkeypatch, source)
    found = gl.probe("egl")
    assert not found.works
    assert found.detail.startswith(detail)


@pytest.mark.long
def test_a_driver_that_hangs_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_opengl(tmp_path, monkeypatch, "import threading; threading.Event().wait()")
    monkeypatch.setattr(gl, "_PROBE_SECS", 1.0)
    assert gl.probe("egl") == Probe("egl", False, "drew nothing for 1 seconds")
    _fake_opengl(tmp_path, monkeypatch, "raise OSError('mended')")
    monkeypatch.setattr(gl, "_PROBE_SECS", 60.0)
    assert gl.probe("egl").detail == "OSError: mended"


def test_to_import_the_package_is_not_to_import_mujoco() -> None:
    program = "import metriplex_mujoco, sys; sys.exit('mujoco' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_diagnosis_is_read_by_people() -> None:
    assert str(Diagnosis(None, (), "Nothing.", "Do it.")) == "Nothing.\nDo it."
    assert str(Diagnosis("egl", (), "All is well", "")) == "All is well"
