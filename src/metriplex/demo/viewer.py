"""Find TensorBoard, and show a run with it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Sequence  # noqa: TC003 - part of public annotations
from importlib.util import find_spec
from pathlib import Path

STOP_TIMEOUT = 10.0

_URL = re.compile(r" at (http://\S+)")


def find_program() -> list[str] | None:
    """Return the command that starts TensorBoard from the user's shell; None if it isn't installed.

    The command is `tensorboard` if that is on the PATH; otherwise the full path of the program
    beside this interpreter, or this interpreter with the module.
    """
    if shutil.which("tensorboard") is not None:
        return ["tensorboard"]
    if find_spec("tensorboard") is None:
        return None
    beside = shutil.which("tensorboard", path=str(Path(sys.executable).parent))
    return [sys.executable, "-m", "tensorboard.main"] if beside is None else [beside]


def install_command(*distributions: str) -> list[str]:
    """Return the command that installs distributions for this interpreter."""
    if find_spec("pip") is None:
        return ["uv", "pip", "install", "--python", sys.executable, *distributions]
    return [sys.executable, "-m", "pip", "install", *distributions]


def command(program: Sequence[str], log_dir: Path) -> list[str]:
    """Return the command that shows a directory with all videos; the default is ten per tag."""
    return [*program, "--logdir", str(log_dir), "--samples_per_plugin", "images=100"]


def shell_line(command: Sequence[str]) -> str:
    """Return a command as a line for the shell, quoted where needed."""
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def serve(program: Sequence[str], log_dir: Path, say: Callable[[str], None]) -> None:
    """Start TensorBoard on loopback, open the browser, and wait for its end or Ctrl-C.

    `say` gets the URL, and the output of TensorBoard if it ends by itself, line by line.
    """
    arguments = [*command(program, log_dir), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(  # noqa: S603 - the program that was found, and no shell
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line.rstrip())
                if url := _URL.search(line):
                    say(f"TensorBoard: {url[1]} (Ctrl-C stops it)")
                    webbrowser.open(url[1])
            for line in (f"TensorBoard ended with status {process.wait()}.", *said):
                say(line)
        except KeyboardInterrupt:
            say("")  # after the terminal's `^C`
            say("TensorBoard stopped.")
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
