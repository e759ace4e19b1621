"""What is logged or printed is printable: tags, names and errors of others are escaped."""

from __future__ import annotations

import io
import logging
import math
import sys
from typing import TYPE_CHECKING, final

import pytest

from event_files.test_reader import tensor, write
from metriplex import ConfigurationError, MetricsCallback, hookimpl
from metriplex.commands.main import main, plugin_table
from metriplex.messages import print_line, printable
from metriplex.plugins.report import PluginReport

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = {
    "title": "\x1b]0;owned\x07",
    "color": "\x1b[31m",
    "C1": "\x9b31m",
    "line": "\nERROR:root:disk failure",
    "return": "\rall is well",
    "backspace": "\x08\x08\x08",
    "separator": "\u2028next",
    "right to left": "\u202egnp.exe",
    "surrogate": "\udcff",
    "nul": "\0",
}


def check(text: str) -> None:
    """Check that text has no control characters but the ends of lines, and no forged line."""
    lines = text.splitlines()
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith(("ERROR:root", "all is well", "next")) for line in lines)


@pytest.mark.parametrize("kind", HOSTILE)
def test_printable_text_is_one_line_that_keeps_what_can_be_read(kind: str) -> None:
    escaped = printable(f"é {HOSTILE[kind]} z")
    check(escaped)
    assert escaped.startswith("é ")
    assert escaped.endswith(" z")
    assert len(escaped.splitlines()) == 1
    assert escaped.encode() is not None
    assert printable("loss/é 漢") == "loss/é 漢"


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_log_is_printable(tmp_path: Path, kind: str) -> None:
    @final
    class Broken:
        """Raises an error with a text of its own."""

        @hookimpl
        def log_text(self, text: object) -> None:
            raise ValueError(f"refused {HOSTILE[kind]} {text!r:.10}")

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("metriplex")
    logger.addHandler(handler)
    try:
        with MetricsCallback(
            "run", log_dir=tmp_path, backends=Broken(), provenance=False, nonfinite="warn"
        ) as metrics:
            metrics.log(1, {f"loss{HOSTILE[kind]}": math.nan})
            metrics.log_text("note", "text", step=1)
    finally:
        logger.removeHandler(handler)
    text = stream.getvalue()
    assert "loss" in text
    assert "refused" in text
    check(text.replace("\t", " "))


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_table_of_plugins_is_printable(kind: str) -> None:
    bad = HOSTILE[kind]
    reports = [
        PluginReport("backend", f"a{bad}", f"b{bad}", f"c{bad}", (f"d{bad}",), None),
        PluginReport("backend", "e", "f", "g", (), f"no{bad} such\nfile"),
    ]
    for line in plugin_table(reports, 80).split("\n"):
        check(line)


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "nul"])
def test_commands_print_names_of_files_and_tags_printable(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / f"logs{HOSTILE[kind]}"
    tag = "tag" + HOSTILE[kind].encode(errors="ignore").decode()
    write(logs / f"run{HOSTILE[kind]}", tensor("pr_curves", tag, dtype=1))
    codes = [
        main(["replay", str(logs), "--from", "tensorboard", "--to", "console"]),
        main(["replay", str(logs), "--to", "console"]),
        main(["export", str(logs), "--to", "csv"]),
        main(["new-backend", "mine", "--directory", str(logs)]),
    ]
    assert codes == [1, 2, 2, 0]
    printed = capsys.readouterr()
    assert "left out" in printed.err
    check(printed.out)
    check(printed.err)


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_text_of_an_error_is_printable(kind: str) -> None:
    check(str(ConfigurationError(f"got {HOSTILE[kind]}")))


def test_letters_that_a_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_line("é: 3 rows")
    assert stream.buffer.getvalue() == b"\\xe9: 3 rows\n"  # type: ignore[attr-defined]
