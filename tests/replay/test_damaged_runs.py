"""A replay of a damaged run says what it leaves out, each time, and never acknowledges it."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pytest
from hypothesis import example, given, settings

import metriplex
from journal.strategies import media_records, write
from journal.test_damage import EDITS, edit
from metriplex import ConfigurationError, Scalars, hookimpl
from metriplex.commands.main import main
from metriplex.journal.acks import load_ack
from metriplex.replay.journal import replay_run

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNT = 40
SEGMENT = Path("journal", "000000.jsonl")


@final
class Remote:
    """A service that keeps steps."""

    def __init__(self) -> None:
        self.stored: list[int] = []

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self.stored += [record.step for record in records]


@functools.cache
def whole() -> bytes:
    """Return a journal whose steps are the records' numbers."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), [Scalars(step, {"a": float(step)}) for step in range(COUNT)])
        return (Path(name) / SEGMENT).read_bytes()


@settings(max_examples=80, deadline=None)
@example([("flip", 0.5, bytes(2000), 1)])
@example([("flip", 0.3, b"\n", 1)])
@example([("cut", 0.3, b"", 400)])
@given(edits=EDITS)
def test_after_any_edit_what_lacks_is_said_again_and_nothing_is_sent_twice(edits: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        (run_dir / "journal").mkdir()
        (run_dir / SEGMENT).write_bytes(edit(whole(), edits))
        remote = Remote()
        try:
            (first,) = replay_run(run_dir, remote)
        except ConfigurationError:  # its header is damaged
            assert metriplex.read(run_dir).damage
            return
        (second,) = replay_run(run_dir, remote)
        assert sorted(remote.stored) == sorted(set(remote.stored))
        lacking = set(range(max(remote.stored, default=0))) - {*remote.stored}
        assert second.sent == 0
        assert second.left == first.left >= len(lacking)
        assert min(bool(first.damage), bool(second.damage)) >= bool(lacking)
        ack = load_ack(run_dir, "remote")
        assert ack is not None
        missed = {number for begin, end in ack.missed for number in range(begin, end)}
        assert missed >= lacking
        read = metriplex.read(run_dir)
        steps = read.series("a").step.tolist() if read.tags else []
        assert sorted(remote.stored) == sorted(steps)


def test_a_damaged_line_is_sent_once_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / SEGMENT).write_bytes(whole().replace(b'"a":7.0', b'"a":8.0'))
    remote = Remote()
    replay_run(tmp_path, remote)
    assert remote.stored == [step for step in range(COUNT) if step != 7]
    (tmp_path / SEGMENT).write_bytes(whole())
    (result,) = replay_run(tmp_path, remote)
    assert remote.stored[COUNT - 1 :] == [7]
    assert (result.left, result.damage) == (0, ())


def test_a_record_whose_file_is_damaged_is_said_again_and_sent_once_it_is_mended(
    tmp_path: Path,
) -> None:
    from memory import Memory

    records = media_records(tmp_path)
    write(tmp_path, records)
    path = tmp_path / "journal" / "media" / "00000000-0.npz"
    shutil.copy(path, tmp_path / "kept")
    path.unlink()
    for _ in range(2):
        (result,) = replay_run(tmp_path, Memory())
        assert result.left == 1
        assert len(result.damage) == 1
        assert "line 0 is left out" in result.damage[0]
    shutil.copy(tmp_path / "kept", path)
    (result,) = replay_run(tmp_path, Memory())
    assert (result.sent, result.left, result.damage) == (1, 0, ())


@pytest.mark.parametrize("command", ["replay", "export"])
def test_every_command_names_the_damage_in_the_same_words_and_fails(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "journal").mkdir()
    data = bytearray(whole())
    half = len(data) // 2
    data[half : half + 800] = bytes(800)
    (tmp_path / SEGMENT).write_bytes(data)
    to = ["console"] if command == "replay" else ["csv", "--output", "/dev/null"]
    for _ in range(2):
        assert main([command, str(tmp_path), "--to", *to]) == 1
        printed = capsys.readouterr()
        damage = metriplex.read(tmp_path).damage
        assert len(damage) == 2
        assert "a line is damaged" in damage[0]
        assert "are missing" in damage[1]
        assert printed.err.splitlines()[-2:] == [f"metriplex: {one}" for one in damage]
        assert "nothing is left" not in printed.out
