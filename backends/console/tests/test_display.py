from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from metriplex import RunInfo, Scalars
from metriplex_console.board import Board, Snapshot
from metriplex_console.display import Picture, Screen, draw


def text(picture: Picture) -> list[str]:
    return ["".join(segment.text for segment in line) for line in picture.lines]


def snapshot_of(tags: dict[str, Any], *, lanes: int = 0, records: int = 30) -> Snapshot:
    board = Board("episode/return")
    for i in range(records):
        for lane in range(lanes) if lanes else [None]:
            values = {"episode/return": i + (lane or 0), **tags}
            board.update([Scalars((i + 1) * 100, values, i, lane, float(i))])
    return board.snapshot()


def draw_text(run, snapshot, width=80, height=24, **options) -> list[str]:
    status = options.pop("status", "running")
    screen = Screen(width, height, **options)
    picture = draw(run, snapshot, screen, now=1065.0, charted="episode/return", status=status)
    return text(picture)


def test_what_a_run_looks_like(run):
    tags = {"a/loss": 0.25, "b/loss": 0.5, "train/learning_rate": math.nan, "plain": 12345678}
    lines = draw_text(run, snapshot_of(tags), 60)
    assert lines[0] == "╭─ ppo_cartpole " + "─" * 43 + "╮"
    body = "\n".join(lines)
    assert "│ ━━━━━━━━━━━━━━━────────────────────────────────────  30% │" in lines
    assert "3,000 / 10,000 steps" in body
    assert "iteration 29" in body
    assert "100.0 steps/s" in body
    assert "1:05 elapsed" in body
    assert "1:10 left" in body
    assert "nan" not in body
    cells = [line.strip("│ ").split() for line in lines]
    assert ["learning_rate", "unknown"] in cells
    assert "12,345,678" in body
    at = cells.index(["a"])
    assert cells[at + 1] == ["loss", "0.25"]
    at = cells.index(["b"])
    assert cells[at + 1] == ["loss", "0.5"]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [16, 40, 80, 140])
@pytest.mark.parametrize("height", [6, 10, 24, 50])
@pytest.mark.parametrize("lanes", [0, 8])
def test_every_line_has_the_width_and_all_fit_the_height(run, ascii_only, width, height, lanes):
    tags = {f"train/group_{i % 4}/a_tag_with_a_long_name_{i}": i / 7 for i in range(30)}
    lines = draw_text(run, snapshot_of(tags, lanes=lanes), width, height, ascii_only=ascii_only)
    assert {cell_len(line) for line in lines} == {width}
    if width >= 40 and height >= 10:
        assert len(lines) < height
    if ascii_only:
        assert "".join(lines).isascii()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "utf-8"])
@pytest.mark.parametrize("width", [16, 40, 80])
def test_a_terminal_whose_encoding_lacks_a_letter_gets_lines_of_its_width(run, encoding, width):
    chart = "\u03b5/\u5b66\u7fd2"
    run = replace(run, name="pp\u00f6-\u03b5", directory=Path("/\u65e5\u8a18/caf\u00e9"))
    board = Board(chart)
    for step in range(9):
        board.update([Scalars(step, {chart: step, "train/\u03b5": 0.5, "\u00e9/\u03b5": 1})])
    ascii_only = not encoding.startswith("utf")
    screen = Screen(width, 24, ascii_only, encoding)
    lines = text(draw(run, board.snapshot(), screen, now=1065.0, charted=chart))
    shown = [line.encode(encoding, "backslashreplace").decode(encoding) for line in lines]
    assert shown == lines
    assert {cell_len(line) for line in shown} == {width}


def test_tags_that_do_not_fit_are_counted(run):
    tags = {f"train/tag_{i:02d}": 1.0 for i in range(99)}
    lines = draw_text(run, snapshot_of(tags), 40, 20)
    shown = sum("tag_" in line for line in lines)
    shown += sum("│   return " in line for line in lines)
    (note,) = (line for line in lines if "more tags" in line)
    assert int(note.split()[1]) == 100 - shown
    assert shown >= 5


def test_max_rows_limits_the_table(run):
    snapshot = snapshot_of({f"train/tag_{i:02d}": 1.0 for i in range(20)})
    assert len(draw_text(run, snapshot, 40, 60)) > 25
    assert len(draw_text(run, snapshot, 40, 60, max_rows=5)) <= 5 + 2 + 2 + 4 + 3


def test_lanes_show_mean_deviation_and_range_where_there_is_room(run):
    snapshot = snapshot_of({}, lanes=5, records=11)
    wide, narrow = (draw_text(run, snapshot, width) for width in (80, 40))
    row = next(line for line in wide if "return  " in line and "±" in line)
    assert row.split()[1:8] == ["return", "12.00", "±", "1.414", "10.00", "…", "14.00"]
    assert "5 seeds" in wide[0]
    row = next(line for line in narrow if "return  " in line and "±" in line)
    assert row.split()[1:5] == ["return", "12.00", "±", "1.414"]


def test_without_a_total_there_is_no_bar(run):
    lines = "\n".join(draw_text(replace(run, total_steps=None), snapshot_of({})))
    assert "%" not in lines
    assert "left" not in lines
    assert "3,000 steps · iteration 29" in lines


@pytest.mark.parametrize("total", [0, 1, 3000])
def test_a_total_that_is_reached_or_odd(run, total):
    lines = "\n".join(draw_text(replace(run, total_steps=total), snapshot_of({})))
    assert "left" not in lines
    assert ("100%" in lines) == (total > 0)


def test_before_the_first_record(run):
    lines = draw_text(run, Snapshot())
    assert any("waiting for the first record: jax compiles the program first" in s for s in lines)
    narrow = draw_text(run, Snapshot(), 50)
    assert any("waiting for the first record  " in line for line in narrow)
    assert any("0 / 10,000 steps" in line for line in lines)


def test_the_end_is_told(run):
    assert draw_text(run, snapshot_of({}), status="interrupted")[-1].endswith(" interrupted ─╯")


def test_control_characters_never_reach_the_terminal(run):
    run = replace(run, name="evil\x1b[2Jname")
    lines = "".join(draw_text(run, snapshot_of({"a/\x1b[31mred\n": 1.0})))
    assert "\x1b" not in lines
    assert "\n" not in lines
    assert "evil\\x1b[2Jname" in lines


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text(min_size=1, max_size=30), st.floats() | st.integers(), max_size=40),
    st.integers(1, 200),
    st.integers(1, 70),
    st.integers(0, 3),
)
def test_any_tags_on_any_terminal(tags, width, height, lanes):
    run = RunInfo("id", "名前/run", Path("logs"), 0.0, 500)
    lines = draw_text(run, snapshot_of(tags, lanes=lanes, records=3), width, height)
    assert {cell_len(line) for line in lines} == {max(width, 16)}
