"""Find an OpenGL backend that draws on this machine, in child processes: a bad driver may crash."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import final

from metriplex_mujoco.errors import NoGLError

_PROBE_SECS = 60.0

_PACKAGES = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}
"""Packages of Debian and Ubuntu with the libraries of a backend."""

_NAMES = {
    "egl": "egl",
    "osmesa": "osmesa",
    "cgl": "cgl",
    **dict.fromkeys(("glfw", "glx", "wgl", "enable", "enabled", "on", "true", "1"), "glfw"),
}
"""Values of `MUJOCO_GL` that MuJoCo accepts, and the module of `mujoco` for each."""

_OFF = ("disable", "disabled", "off", "false", "0")


@final
@dataclasses.dataclass(frozen=True)
class Probe:
    """Result of drawing a test image with one backend in a child process.

    Attributes:
        backend: `"egl"`, `"osmesa"`, `"glfw"` or `"cgl"`.
        works: True if the image was drawn.
        detail: Device that drew, for example `llvmpipe (LLVM 15.0.6, 256 bits)`, or the error.
    """

    backend: str
    works: bool
    detail: str


@final
@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of OpenGL for MuJoCo on this machine; `str()` returns a text for users.

    Attributes:
        backend: The backend that will draw; None if no backend works.
        probes: Results of the tried backends, in order, up to the first that works.
        summary: The result in one line or a few.
        remedy: Advice; empty if a backend works.
    """

    backend: str | None
    probes: tuple[Probe, ...]
    summary: str
    remedy: str

    @property
    def works(self) -> bool:
        """True if frames can be drawn."""
        return self.backend is not None

    def __str__(self) -> str:
        return f"{self.summary}\n{self.remedy}".strip()


def diagnose() -> Diagnosis:
    """Find the OpenGL backend to draw with: `MUJOCO_GL` if set, otherwise the first that works.

    Each tried backend takes about half a second, once per process: results are cached.
    """
    wanted = os.environ.get("MUJOCO_GL", "").strip()
    if wanted and wanted.lower() not in _NAMES:
        forbids = wanted.lower() in _OFF
        reason = "forbids to draw" if forbids else "names no OpenGL backend of MuJoCo"
        usual = ", ".join(f"`{backend}`" for backend in _candidates())
        remedy = f"Unset it, or set it to one of {usual}."
        return Diagnosis(None, (), f"`MUJOCO_GL={wanted}` {reason}", remedy)
    backends = (_NAMES[wanted.lower()],) if wanted else _candidates()
    probes: list[Probe] = []
    for backend in backends:
        probes.append(probe(backend))
        if probes[-1].works:
            chosen = "as `MUJOCO_GL` asks" if wanted else "chosen by trying"
            summary = f"MuJoCo draws with {backend.upper()} ({probes[-1].detail}), {chosen}"
            return Diagnosis(backend, tuple(probes), summary, "")
    failures = "; ".join(f"{tried.backend.upper()}: {tried.detail}" for tried in probes)
    asked = f" (`MUJOCO_GL={wanted}` allows no other)" if wanted else ""
    summary = f"MuJoCo can't draw without a display on this machine{asked}: {failures}"
    return Diagnosis(None, tuple(probes), summary, _remedy(backends, wanted))


def choose_backend() -> str:
    """Return the backend to draw with; raise `NoGLError` if no backend works."""
    diagnosis = diagnose()
    if diagnosis.backend is None:
        raise NoGLError(str(diagnosis))
    return diagnosis.backend


_lock = threading.Lock()
_answers: dict[str, Probe] = {}


def probe(backend: str) -> Probe:
    """Draw a test image with a backend in a child process, and cache the result."""
    with _lock:
        if backend in _answers:
            return _answers[backend]
        try:
            found = _run_probe(backend)
        except subprocess.TimeoutExpired:  # not cached: the machine may only be busy
            return Probe(backend, False, f"drew nothing for {_PROBE_SECS:.0f} seconds")
        _answers[backend] = found
        return found


def _run_probe(backend: str) -> Probe:
    program = str(Path(__file__).with_name("context.py"))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(  # noqa: S603 - our own interpreter and our own file
        [sys.executable, "-P", program, backend],
        env=os.environ | {"MUJOCO_GL": backend, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PROBE_SECS,
        check=False,
    )
    if done.returncode == 0:
        return Probe(backend, True, done.stdout.strip())
    if done.returncode < 0:
        return Probe(backend, False, f"crashed with {signal.Signals(-done.returncode).name}")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exited with {done.returncode}"
    if last.startswith("AttributeError: 'NoneType'"):  # PyOpenGL's way to report it
        last = f"its library is not installed ({last})"
    return Probe(backend, False, last)


def _candidates() -> tuple[str, ...]:
    return {"darwin": ("cgl",), "win32": ("glfw",)}.get(sys.platform, ("egl", "osmesa"))


def _remedy(backends: tuple[str, ...], wanted: str) -> str:
    platform = os.environ.get("PYOPENGL_PLATFORM", "")
    if platform and platform.lower() not in backends:
        return f"Unset `PYOPENGL_PLATFORM`, which is {platform!r}: PyOpenGL then obeys MuJoCo."
    installs = " or ".join(
        f"for {backend.upper()} `apt-get install {_PACKAGES[backend]}`"
        for backend in backends
        if backend in _PACKAGES
    )
    steps = [f"on Debian and Ubuntu install {installs}"] * bool(installs)
    steps += ["unset `MUJOCO_GL`"] * bool(wanted)
    text = ", or ".join(steps)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
