"""A real pseudo-terminal for programs, and a small terminal emulator for their output."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, final

import pytest

from metriplex import RunInfo

if TYPE_CHECKING:
    from pathlib import Path

PROLOGUE = """
import fcntl, os, termios
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # here, as nothing should run between fork and exec

import logging, math, os, pathlib, sys, threading, time
from metriplex import RunInfo, Scalars
from metriplex_console import ConsoleBackend

def make_run(name="ppo", total=None, id="1"):
    return RunInfo(id, name, pathlib.Path("/logs") / name, time.time(), total)

def on_worker(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()

def record(i, lane=None, **more):
    values = {"episode/return": float(i), "a/loss": 0.25, "b/loss": 0.75, **more}
    return Scalars((i + 1) * 100, values, i, lane, time.time())

"""


@pytest.fixture
def prologue() -> str:
    """Return the first lines of every program."""
    return PROLOGUE


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return RunInfo("id", "ppo_cartpole", tmp_path, 1000.0, 10_000)


@final
class Terminal:
    """The text that a terminal shows for a program's output, including scroll-back."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.cursor_visible = True
        lines: list[list[str]] = [[]]
        row = column = 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]", output):
            if token == "\r":
                column = 0
            elif token == "\n":
                row += 1
                lines += [[]] * (row >= len(lines))
                lines[row] = list(lines[row])
            elif token.startswith("\x1b["):
                number, kind = token[2:-1], token[-1]
                if kind == "A":
                    row -= int(number or 1)
                    assert row >= 0, "the cursor left the top of what was written"
                elif kind == "K":
                    assert number == "2"
                    lines[row] = []
                elif number == "?25":
                    self.cursor_visible = kind == "h"
                else:
                    assert kind == "m", f"unexpected escape code {token!r}"
            else:
                lines[row] += [" "] * (column + 1 - len(lines[row]))
                lines[row][column] = token
                column += 1
        self.lines = ["".join(line).rstrip() for line in lines]
        self.text = "\n".join(self.lines)


@final
class Program:
    """A Python program whose standard streams are a pseudo-terminal of its own."""

    def __init__(self, source: str, columns: int, rows: int, stdout: int | None = None) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # At Ctrl-C the kernel discards output that the terminal has not read, even half a picture.
        attributes = termios.tcgetattr(slave)
        attributes[3] |= termios.NOFLSH
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        environment |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROLOGUE + source],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self._output = bytearray()

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            raise AssertionError(f"the program fell silent after {self._output.decode()!r}")
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # the program has closed its side
            return False
        self._output += chunk
        return bool(chunk)

    def read_until(self, text: str, seconds: float = 30) -> None:
        """Wait until the program has written a text."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self._output:
            assert self._read(deadline - time.monotonic()), self._output.decode()

    def press(self, keys: bytes) -> None:
        """Type on the program's keyboard; b"\\x03" is Ctrl-C."""
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """Close the terminal while the program runs."""
        os.close(self._master)
        self._master = -1

    def finish(self) -> Terminal:
        """Wait for the end and return the text that the terminal shows."""
        while self._read(30):
            pass
        self.process.wait(30)
        return Terminal(self._output.decode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._master >= 0:
            os.close(self._master)


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    programs: list[Program] = []

    def _start(
        source: str, columns: int = 80, rows: int = 24, stdout: int | None = None
    ) -> Program:
        programs.append(Program(source, columns, rows, stdout))
        return programs[-1]

    yield _start
    for program in programs:
        program.close()
