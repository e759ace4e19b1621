"""The contract of backends for the console, which reads its plain lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path  # noqa: TC003 - a field's annotation
from typing import TYPE_CHECKING, Any, final

import pytest

from metriplex.testing import BackendContract, Series, Stored
from metriplex_console import ConsoleBackend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from metriplex import RunInfo, Scalar

_VALUE = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^ ]*)"""
_FACT = re.compile(rf"(?P<name>[^ =]+)=(?P<value>{_VALUE})")
_LABEL = re.compile(rf"run=(?P<run>{_VALUE})(?: directory=(?P<directory>{_VALUE}))?(?: |$)")
_LANES = pytest.mark.xfail(reason="lanes are shown as their mean and standard deviation")


@final
class Contract(BackendContract):
    """Plain lines keep six digits of a float, hyper-parameters as text, every line, and no time."""

    supersedes = False

    def make_backend(self) -> ConsoleBackend:
        """Return a backend that writes a line for every step into a file."""
        file: Any = _File(self._lines)
        return ConsoleBackend(file=file, every_secs=0, live=False)

    def stored_value(self, value: Scalar) -> Scalar:
        """Return a float with six digits; an integer for integers and bools."""
        return int(value) if isinstance(value, int) else float(f"{value:.6g}")

    def stored_wall_time(self, wall_time: float) -> None:
        """Return None: a line has no time."""

    def stored_hparams(self, hparams: Mapping[str, Scalar | str]) -> Mapping[str, Any]:
        """Return all hyper-parameters as text."""
        return {
            name: f"{value:.6g}" if isinstance(value, float) else str(value)
            for name, value in hparams.items()
        }

    @pytest.mark.xfail(reason="a stream can't take back the beginning of a line")
    def test_a_failed_call_stores_all_or_nothing(self) -> None:
        """Run the test of the contract."""
        super().test_a_failed_call_stores_all_or_nothing()

    @_LANES
    def test_lanes_are_runs_of_their_own(self) -> None:
        """Run the test of the contract."""
        super().test_lanes_are_runs_of_their_own()

    @_LANES
    def test_lanes_have_names(self) -> None:
        """Run the test of the contract."""
        super().test_lanes_have_names()

    @_LANES
    def test_lanes_have_hparams(self) -> None:
        """Run the test of the contract."""
        super().test_lanes_have_hparams()

    @_LANES
    def test_lanes_are_flushed(self) -> None:
        """Run the test of the contract."""
        super().test_lanes_are_flushed()

    @_LANES
    def test_lanes_of_a_resumed_run(self) -> None:
        """Run the test of the contract."""
        super().test_lanes_of_a_resumed_run()

    def read_back(self, run: RunInfo) -> Stored:
        """Parse the lines of the run."""
        scalars: dict[Series, list[tuple[int, Scalar]]] = {}
        iterations: dict[Series, list[tuple[int, int]]] = {}
        hparams: dict[str, str] = {}
        status = None
        for line in self._lines_of(run):
            if line.startswith("hparams "):
                hparams |= dict(_facts(line.removeprefix("hparams ")))
                continue
            iteration = re.match(r"step=\d+( iteration=(\d+))", line)
            plain = line if iteration is None else line.replace(iteration[1], "", 1)
            (first, text), *facts = _facts(plain)
            status = text if first == "status" else None
            for tag, value in facts if first == "step" else ():
                is_integer = value != "-0" and re.fullmatch(r"-?\d+", value) is not None
                number: Scalar = int(value) if is_integer else float(value)
                scalars.setdefault((None, tag), []).append((int(text), number))
                if iteration is not None:
                    iterations.setdefault((None, tag), []).append((int(text), int(iteration[2])))
        return Stored(scalars=scalars, iterations=iterations, hparams=hparams, status=status)

    @property
    def _lines(self) -> Path:
        return self.directory / "console.txt"

    def _lines_of(self, run: RunInfo) -> Iterator[str]:
        """Return a run's lines without their label; lines of the only open run have none."""
        open_runs: dict[str, str] = {}
        for line in self._lines.read_text().splitlines():
            label = _LABEL.match(line)
            inner = line if label is None else line[label.end() :]
            if label is None or label["directory"] is None:
                name = None if label is None else _unquote(label["run"])
                [directory] = [d for d, other in open_runs.items() if name in (None, other)]
            else:
                directory = _unquote(label["directory"])
                open_runs.setdefault(directory, _unquote(label["run"]))
            if inner and directory == str(run.directory):
                yield inner
            if inner.startswith("status="):
                del open_runs[directory]


@final
class _File:
    """A text stream that is open only while it writes."""

    encoding = "utf-8"

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> int:
        with self._path.open("a", encoding=self.encoding) as file:
            return file.write(text)

    def flush(self) -> None:
        pass


def _facts(line: str) -> list[tuple[str, str]]:
    return [(_unescape(f["name"]), _unquote(f["value"])) for f in _FACT.finditer(line)]


def _unescape(name: str) -> str:
    return re.sub(
        r"\\(x..|u.{4}|U.{8}|.)", lambda found: ast.literal_eval(f'"{found.group()}"'), name
    )


def _unquote(value: str) -> str:
    return ast.literal_eval(value) if value[:1] in ("'", '"') else value
