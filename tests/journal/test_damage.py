"""A damaged journal raises no exception, gives no wrong value, and all whole lines are read."""

from __future__ import annotations

import functools
import random
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metriplex
from journal.strategies import entries, info, media_records, same, write
from metriplex import Histogram, Scalars, Text
from metriplex.journal import (
    Close,
    Hparams,
    JournalWriter,
    Resume,
    newest_step,
    next_number,
    read_entries,
    read_run,
    superseded,
)
from metriplex.journal.lines import is_sealed, parse, salvage, seal

RECORDS: list[Any] = [
    Hparams({"n": 1, "type": "x", 'a"': '{"n":0,"type":"text"'}),
    Scalars(10, {"loss": 0.1, "n": 3}, 0, 0, 1.5),
    Scalars(10, {"loss": float("nan"), "big": 2**80}, 0, 1, 1.5),
    Text(11, "note", 'a "quoted" line\nand,"crc":"00000000"}'),
    Histogram(12, "weights", np.array([1, 2]), np.array([0.0, 0.5, 1.5])),
    Scalars(20, {"loss": -0.0}, 1, 0, 2.5),
    Resume(15),
    Scalars(16, {"loss": 5e-324}, 1, 0, 3.5),
    Close("failed"),
]


@functools.cache
def whole() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), RECORDS, fsync="never")
        return (Path(name) / "journal" / "000000.jsonl").read_bytes()


def read_all(directory: Path, data: bytes, start: int = 0) -> dict[int, Any]:
    """Read the bytes with every function that reads journals."""
    (directory / "journal").mkdir(exist_ok=True)
    (directory / "journal" / "000000.jsonl").write_bytes(data)
    reported: list[str] = []
    found = list(read_entries(directory, start, damage=reported.append))
    superseded(directory)
    newest_step(directory)
    assert len({entry.number for entry in found}) == len(found)
    return {entry.number: entry.record for entry in found}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def check(directory: Path, data: bytes) -> None:
    found = read_all(directory, data)
    for number, record in found.items():
        assert same(record, RECORDS[number])
    lines = whole().splitlines()[1:]
    assert set(found) >= {number for number, line in enumerate(lines) if line in data}


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "truncate", "copy"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=6),
        st.integers(1, 400),
    ),
    min_size=1,
    max_size=4,
)


def edit(data: bytes, edits: list[tuple[str, float, bytes, int]]) -> bytes:
    for kind, where, new, length in edits:
        at = int(where * len(data))
        if kind == "flip":
            data = data[:at] + new[: len(data) - at] + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at] + data[at + length :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "truncate":
            data = data[: len(data) - length]
        else:
            data = data[:at] + data[: length * 3] + data[at:]
    return data


@settings(max_examples=250, deadline=None)
@given(edits=EDITS)
def test_any_edit_of_the_bytes(directory: Path, edits: Any) -> None:
    check(directory, edit(whole(), edits))


def test_each_byte_changed(directory: Path) -> None:
    draw = random.Random(0)
    data = whole()
    for at in range(len(data)):
        flipped = bytes([data[at] ^ draw.randrange(1, 256)])
        check(directory, data[:at] + flipped + data[at + 1 :])


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(len(RECORDS) + 1)), count=st.integers(0, len(RECORDS) + 1))
def test_lines_in_another_order_or_removed(directory: Path, order: list[int], count: int) -> None:
    lines = whole().splitlines(keepends=True)
    check(directory, b"".join(lines[index] for index in order[:count]))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_hold_no_entries(directory: Path, data: bytes) -> None:
    assert read_all(directory, data) == {}
    assert read_all(directory, data, 3) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(line=st.sampled_from(range(len(RECORDS))), data=st.data())
def test_members_of_another_type_with_a_right_checksum(
    directory: Path, line: int, data: st.DataObject
) -> None:
    import json

    fields = json.loads(whole().splitlines()[1 + line])
    del fields["crc"]
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(JSON)
    read_all(directory, seal(json.dumps(fields)[:-1]))
    data_read = metriplex.read(directory)
    data_read.long()
    data_read.wide()


ABSURD = (10**400, -(10**400), 10**4000, 2**63, -(2**63) - 1, 1e308, 0, -1, True, None, "1", [1])


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: f"{len(str(value))}-{str(value)[:5]}")
@pytest.mark.parametrize("member", ["time", "step", "iteration", "lane"])
def test_an_absurd_number_is_read_exactly_or_is_damage(
    directory: Path, member: str, value: object
) -> None:
    import json

    stamp = {"step": 1, "iteration": 1, "lane": None, "time": 1.0}
    lines = [
        {"n": 0, "type": "scalars", **stamp, member: value, "values": {"a": 1.0}},
        {"n": 1, "type": "text", **stamp, member: value, "tag": "t", "text": "x"},
        {"n": 2, "type": "scalars", **stamp, "values": {"b": 2.0}},
    ]
    found = read_all(directory, b"".join(seal(json.dumps(line)[:-1]) for line in lines))
    data = metriplex.read(directory)
    assert data.series("b").value.tolist() == [2.0]
    assert ("a" in data.tags) is (0 in found)
    assert len(data.damage) >= sum(number not in found for number in (0, 1))
    data.long()
    data.wide()


def test_the_lines_within_a_damaged_line_are_found_in_linear_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted are the bytes that checksums are computed of, for lines that were made for it."""
    read = 0

    def crc32(data: Any, value: int = 0) -> int:
        nonlocal read
        read += len(data)
        return zlib.crc32(data, value)

    lines = whole().splitlines()[1:]
    start, end = b'{"n":', b',"crc":"00000000"}'
    worst = [
        2**18 * b"\0",
        2**15 * start,
        2**13 * end,
        3 * start + 2**13 * end,
        2**13 * (start + end),
        2**13 * (3 * start + end),
        b"".join(seal(f"{start.decode()}{number}" + 20 * "[")[:-1] for number in range(2**12)),
    ]
    for filler in worst:
        read = 0
        data = b"x".join([filler, lines[0], filler, lines[1], filler])
        with monkeypatch.context() as patch:
            patch.setattr("metriplex.journal.lines.zlib", SimpleNamespace(crc32=crc32))
            found = list(salvage(data))
        assert [fields["n"] for fields in found] == [0, 1]
        assert read <= 8 * len(data)


@pytest.mark.parametrize("block", [7, 64, 2**20])
def test_a_line_of_any_length_is_read_whole_and_an_endless_one_in_parts(
    directory: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metriplex.journal.reader._BLOCK", block)
    check(directory, whole())
    lines = whole().splitlines()
    joined = b"".join(lines)  # every newline is lost
    check(directory, joined + b"\n")
    most = max(map(len, lines)) + 50
    monkeypatch.setattr("metriplex.journal.reader.MAX_LINE", most)
    for data in (joined, joined + 5000 * b"\0" + joined, 5000 * b"\0" + joined):
        found = read_all(directory, data + b"\n")
        assert found.keys() == dict(enumerate(RECORDS)).keys()


def test_a_record_that_no_reader_would_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metriplex.journal.writer.MAX_LINE", 500)
    writer = JournalWriter(tmp_path, info(tmp_path))
    writer.append(0, [Text(1, "t", "x" * 300)])
    with pytest.raises(ValueError, match=r"a record of \d+ bytes can't be read again"):
        writer.append(1, [Text(2, "t", "x" * 600)])
    writer.append(1, [Text(3, "t", "x")])
    writer.close()
    found: list[Any] = [entry.record for entry in entries(tmp_path)]
    assert [record.step for record in found] == [1, 3]


def test_the_end_of_an_endless_file_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metriplex.journal.tail.MAX_LINE", 2**20)
    write(tmp_path, RECORDS)
    with (tmp_path / "journal" / "000000.jsonl").open("r+b") as file:
        file.truncate(2**40)  # sparse: a few bytes in an archive
    with pytest.raises(OSError, match="no line in the last"):
        next_number(tmp_path)


def test_deep_nesting_and_long_integers_are_damage(directory: Path) -> None:
    assert read_all(directory, seal('{"n":0,"type":"text","tag":' + "[" * 200_000)) == {}
    assert read_all(directory, seal('{"n":0,"type":"resume","step":' + "9" * 5000)) == {}


def test_damage_is_reported_with_its_place(tmp_path: Path) -> None:
    lines = whole().splitlines(keepends=True)
    write(tmp_path, RECORDS)
    path = tmp_path / "journal" / "000000.jsonl"
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"0.1", b"0.2"), *lines[3:]]))
    reported: list[str] = []
    found = list(read_entries(tmp_path, damage=reported.append))
    assert [entry.number for entry in found] == [0, *range(2, 9)]
    place = len(lines[0] + lines[1])
    assert reported == [
        f"{path} at byte {place}: a line is damaged: its checksum is wrong",
        "the lines 1 to 1 are missing",
    ]


# Media files -----------------------------------------------------------------------------------


def test_a_record_with_a_changed_or_removed_file_is_left_out(tmp_path: Path) -> None:
    records = media_records(tmp_path)
    write(tmp_path, records)
    media = tmp_path / "journal" / "media"
    (media / "00000000-0.npz").unlink()
    clip = (media / "00000002-0.gif").read_bytes()
    (media / "00000002-0.gif").write_bytes(clip.replace(b"9", b"7"))
    (tmp_path / "artifacts" / "step_5" / "net" / "a.bin").write_bytes(b"\0\1\3")
    reported: list[str] = []
    found = list(read_entries(tmp_path, damage=reported.append))
    assert [entry.number for entry in found] == [1, 4]
    numbers = [one.partition(" is left out")[0].rpartition(" ")[2] for one in reported]
    assert numbers == ["0", "2", "3"]
    assert "is missing" in reported[0]
    assert "its checksum is wrong" in reported[1]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "link", "", 3])
def test_no_line_leads_out_of_the_runs_directory(tmp_path: Path, name: object) -> None:
    import json
    import zlib

    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "secret").write_bytes(b"GIF")
    (run / "link").symlink_to(tmp_path / "secret")
    clip = {"file": name, "bytes": 3, "crc32": f"{zlib.crc32(b'GIF'):08x}", "format": "gif"}
    clip |= {"width": 1, "height": 1, "num_frames": 1, "fps": 1.0, "duration": 1.0}
    stamp = {"step": 0, "lane": None, "time": 0.0}
    video = {"n": 0, "type": "video", **stamp, "tag": "v", "fps": 1.0, "frames": None}
    artifact = {"n": 1, "type": "artifact", **stamp, "name": "a", "path": name, "files": [clip]}
    outside = {"n": 2, "type": "artifact", **stamp, "name": "../a", "path": "link", "files": []}
    lines = [video | {"clips": [clip]}, artifact, outside]
    assert read_all(run, b"".join(seal(json.dumps(line)[:-1]) for line in lines)) == {}


# Segments --------------------------------------------------------------------------------------


def steps(count: int) -> list[Any]:
    return [Scalars(step, {"a": step / 3}, lane=step % 2) for step in range(count)]


def test_damaged_headers_and_missing_segments(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path), max_bytes=600)
    for number, record in enumerate(steps(20)):
        writer.append(number, [record])
        writer.flush()
    writer.close()
    first, second, third, *others = sorted((tmp_path / "journal").glob("*.jsonl"))
    gone = {parse(line)["n"] for line in second.read_bytes().splitlines()[1:]}
    second.unlink()
    for path in (first, third, *others):
        path.write_bytes(path.read_bytes().replace(b'"version"', b'"Version"'))
    kept = [number for number in range(20) if number not in gone]
    assert [entry.number for entry in entries(tmp_path)] == kept
    assert [entry.number for entry in entries(tmp_path, 15)] == list(range(15, 20))
    assert newest_step(tmp_path) == {0: 18, 1: 19}
    with pytest.raises(ValueError, match="no segment has a header"):
        read_run(tmp_path)


def test_reading_continues_while_lines_are_written(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path), max_bytes=700)
    records = steps(60)
    seen: list[Any] = []
    for number, record in enumerate(records):
        writer.append(number, [record])
        writer.flush()
        if number % 7 == 0:
            seen += entries(tmp_path, len(seen))
            assert len(seen) == number + 1
    live = read_entries(tmp_path, len(seen))
    writer.append(60, records[:1])
    writer.close()
    seen += live
    assert [entry.number for entry in seen] == list(range(61))


def test_the_start_is_found_in_a_large_segment(tmp_path: Path) -> None:
    filler = "x" * 2000
    write(tmp_path, [Text(step, "t", filler) for step in range(3000)], fsync="never")
    for start in (1, 700, 1500, 2999, 3000):
        found = read_entries(tmp_path, start)
        assert next(found, None) == (None if start == 3000 else entries(tmp_path, start)[0]), start
        assert sum(1 for _ in found) == max(2999 - start, 0)


def test_a_line_that_is_being_written_is_not_damage(tmp_path: Path) -> None:
    write(tmp_path, steps(3))
    path = tmp_path / "journal" / "000000.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    reported: list[str] = []
    assert len(list(read_entries(tmp_path, damage=reported.append))) == 2
    assert reported == []


def test_no_journal_has_no_entries(tmp_path: Path) -> None:
    assert entries(tmp_path) == []
    assert newest_step(tmp_path) == {}
    with pytest.raises(ValueError, match="there is no journal in"):
        read_run(tmp_path)


# Resuming --------------------------------------------------------------------------------------


def valid_numbers(directory: Path) -> list[int]:
    gone = superseded(directory)
    return [entry.number for entry in read_entries(directory) if not gone(entry)]


def test_each_step_has_one_value_after_several_resumes(tmp_path: Path) -> None:
    def at(*numbers: int) -> list[Any]:
        return [Scalars(number, {"a": 1.0}) for number in numbers]

    write(tmp_path, [Hparams({}), *at(0, 10, 20, 30), Resume(20), *at(20, 30, 40)])
    assert valid_numbers(tmp_path) == [0, 1, 2, 5, 6, 7, 8]
    write(tmp_path, [Resume(10), Text(10, "t", "again"), *at(15, 45), Resume(40), *at(40)])
    assert valid_numbers(tmp_path) == [0, 1, 5, 9, 10, 11, 13, 14]
    assert newest_step(tmp_path) == {None: 40}


def test_the_newest_step_of_a_lane_that_has_not_logged_since_a_resume(tmp_path: Path) -> None:
    write(tmp_path, [*steps(10), Resume(4), Scalars(6, {"a": 0.0}, lane=0)], max_bytes=700)
    assert newest_step(tmp_path) == {0: 6, 1: 3}
    assert is_sealed(whole().splitlines()[0])


@settings(max_examples=150, deadline=None)
@given(edits=EDITS, order=st.permutations(range(12)), shuffled=st.booleans())
def test_after_any_damage_new_records_have_new_numbers(
    tmp_path_factory: pytest.TempPathFactory, edits: Any, order: list[int], shuffled: bool
) -> None:
    directory = tmp_path_factory.mktemp("run")
    old = [Scalars(10 * number, {"a": 1.0}) for number in range(12)]
    write(directory, old, fsync="never")
    path = directory / "journal" / "000000.jsonl"
    header, *lines = path.read_bytes().splitlines(keepends=True)
    lines = [lines[index] for index in order] if shuffled else lines
    body = edit(b"".join(lines), edits)
    path.write_bytes(header + body)
    kept = {entry.number: entry.record for entry in read_entries(directory)}

    new = [Scalars(1000 + index, {"a": 2.0}) for index in range(3)]
    writer = JournalWriter(directory, read_run(directory), fsync="never")
    first = writer.next_number
    writer.append(first, new)
    writer.close()

    assert first > max(kept, default=-1)
    found = {entry.number: entry.record for entry in read_entries(directory)}
    assert kept.items() <= found.items()
    assert [found[first + index] for index in range(3)] == new
