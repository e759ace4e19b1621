from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.strategies import INLINE, entries, info, media_records, python, same, write
from metriplex import Artifact, ClosedError, ConfigurationError, Scalars, Text
from metriplex.journal import Close, Hparams, JournalWriter, Resume, read_entries, read_run
from metriplex.records import Lane

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def scalars(count: int, first: int = 0) -> list[Scalars]:
    return [Scalars(10 * step, {"loss": step / 7}, step) for step in range(first, first + count)]


@settings(max_examples=60, deadline=None)
@given(records=st.lists(INLINE, max_size=12), max_bytes=st.sampled_from([1, 400, 2**20]))
def test_written_records_are_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], max_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("run")
    write(directory, records, fsync="never", max_bytes=max_bytes)
    reported: list[str] = []
    found = list(read_entries(directory, damage=reported.append))
    assert reported == []
    assert [entry.number for entry in found] == list(range(len(records)))
    assert all(same(entry.record, record) for entry, record in zip(found, records, strict=True))
    middle = len(records) // 2
    assert [entry.number for entry in entries(directory, middle)] == [*range(middle, len(records))]


def test_media_are_stored_in_files(tmp_path: Path) -> None:
    records = [*media_records(tmp_path), Close("finished")]
    write(tmp_path, records)
    assert all(
        same(entry.record, record) for entry, record in zip(entries(tmp_path), records, strict=True)
    )
    names = sorted(path.name for path in (tmp_path / "journal" / "media").iterdir())
    assert names == ["00000000-0.npz", "00000001-0.npz", "00000002-0.gif"]
    assert (tmp_path / "journal" / "media" / "00000002-0.gif").read_bytes() == b"GIF89a..."


def test_an_artifact_outside_of_the_run_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("x")
    writer = JournalWriter(tmp_path / "run", info(tmp_path / "run"))
    with pytest.raises(ValueError, match="secret"):
        writer.append(0, [Artifact(0, "secret", tmp_path / "secret")])
    writer.close()
    assert entries(tmp_path / "run") == []


def test_the_format_is_as_documented(tmp_path: Path) -> None:
    write(
        tmp_path,
        [Scalars(2**33, {"a": 0.1, "b": float("nan"), "c": True}, 4, None, 2.0), Hparams({"x": 1})],
    )
    header, first, second = (tmp_path / "journal" / "000000.jsonl").read_bytes().splitlines()
    assert first == (
        b'{"n":0,"type":"scalars","step":8589934592,"iteration":4,"lane":null,"time":2.0,'
        b'"values":{"a":0.1,"b":null,"c":true},"nonfinite":{"b":"nan"},"crc":"%08x"}'
        % zlib.crc32(first[:-18])
    )
    fields = json.loads(header)
    del fields["crc"]
    assert fields == {
        "n": 0,
        "type": "run",
        "version": 1,
        "id": "0f",
        "name": "run",
        "start_time": 1.5,
        "total_steps": None,
        "steps": [],
        "lanes": [],
    }
    assert json.loads(second)["values"] == {"x": 1}


def test_numpy_values_are_written_as_python_values(tmp_path: Path) -> None:
    values: Any = {"a": np.float32(0.1), "b": np.int64(7), "c": np.bool_(True), "d": np.float64(2)}
    write(tmp_path, [Scalars(1, values), Scalars(2, values | {"e": np.float32("inf")})])
    expected = {"a": float(np.float32(0.1)), "b": 7, "c": True, "d": 2.0}
    one, two = (entry.record for entry in entries(tmp_path))
    assert isinstance(one, Scalars)
    assert isinstance(two, Scalars)
    assert same(one.values, expected)
    assert same(two.values, expected | {"e": float("inf")})


def test_a_number_is_appended_once(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path))
    writer.append(0, scalars(3))
    writer.append(1, scalars(4, 1))  # repeated after a failure
    assert (writer.next_number, writer.written) == (5, 0)
    writer.flush()
    assert writer.written == 5
    writer.close()
    writer.close()
    assert [entry.record for entry in entries(tmp_path)] == scalars(5)
    with pytest.raises(ClosedError, match="is closed"):
        writer.append(5, scalars(1))


def test_the_policy_always_writes_at_every_append(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path), fsync="always")
    writer.append(0, scalars(2))
    assert writer.written == 2
    assert [entry.record for entry in entries(tmp_path)] == scalars(2)
    writer.close()


def test_every_segment_has_a_header_with_the_run(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path), max_bytes=1000)
    for number in range(30):
        writer.append(number, [Scalars(number, {"a": 0.5}, lane=number % 2)])
        writer.flush()
    writer.close()
    paths = sorted((tmp_path / "journal").glob("*.jsonl"))
    assert len(paths) > 3
    assert all(path.stat().st_size < 1200 for path in paths)
    headers = [json.loads(path.read_text().splitlines()[0]) for path in paths]
    assert [header["type"] for header in headers] == ["run"] + ["segment"] * (len(paths) - 1)
    assert {header["id"] for header in headers} == {"0f"}
    last = headers[-1]
    newest = {last["n"] - 1, last["n"] - 2}
    assert {step for _, step in last["steps"]} == newest
    assert {(lane, step % 2) for lane, step in last["steps"]} == {(0, 0), (1, 1)}


# Resuming --------------------------------------------------------------------------------------


def test_a_journal_is_resumed(tmp_path: Path) -> None:
    write(tmp_path, scalars(3))
    write(tmp_path, [Resume(20), *scalars(2, 2)])
    assert [entry.number for entry in entries(tmp_path)] == list(range(6))
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 1


def test_changed_properties_of_the_run_begin_a_segment(tmp_path: Path) -> None:
    write(tmp_path, scalars(3))
    writer = JournalWriter(tmp_path, info(tmp_path, total_steps=99))
    writer.append(3, scalars(1, 3))
    writer.close()
    assert read_run(tmp_path) == info(tmp_path)
    assert read_run(tmp_path).total_steps == 99
    lanes = (Lane("lr_1", {"lr": float("inf")}), Lane("lr_2", {"lr": 0.5, "opt": "adam"}))
    JournalWriter(tmp_path, info(tmp_path, lanes=lanes)).close()
    assert read_run(tmp_path).lanes == lanes
    assert [entry.record for entry in entries(tmp_path)] == scalars(4)


def test_the_journal_of_another_run_is_rejected_and_unchanged(tmp_path: Path) -> None:
    write(tmp_path, scalars(3))
    with pytest.raises(ConfigurationError, match=r"is of run `run` \(0f\), not of `run` \(aa\)"):
        JournalWriter(tmp_path, info(tmp_path, id="aa"))
    write(tmp_path, scalars(1, 3))
    assert [entry.record for entry in entries(tmp_path)] == scalars(4)


def test_power_cut_at_every_byte_of_the_last_lines(tmp_path: Path) -> None:
    write(tmp_path, scalars(6))
    path = tmp_path / "journal" / "000000.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for size in range(len(whole) - len(lines[-1]) - len(lines[-2]), len(whole)):
        path.write_bytes(whole[:size])
        kept = whole[: size + 1].count(b"\n") - 1  # a line without its newline is whole
        assert [entry.record for entry in entries(tmp_path)] == scalars(kept), size
        with contextlib.closing(JournalWriter(tmp_path, info(tmp_path), fsync="never")) as writer:
            assert writer.next_number == kept
            writer.append(kept, [Text(0, "after", "the crash")])
        reported: list[str] = []
        found = list(read_entries(tmp_path, damage=reported.append))
        assert [entry.record for entry in found] == [*scalars(kept), Text(0, "after", "the crash")]
        assert reported == []


@pytest.mark.parametrize("size", [0, 1, 40])
def test_power_cut_while_a_segment_began(tmp_path: Path, size: int) -> None:
    write(tmp_path, scalars(8), max_bytes=600)
    last = max((tmp_path / "journal").glob("*.jsonl"))
    first = json.loads(last.read_text().splitlines()[0])["n"]
    last.write_bytes(last.read_bytes()[:size])
    write(tmp_path, scalars(8 - first, first))
    reported: list[str] = []
    found = list(read_entries(tmp_path, damage=reported.append))
    assert [(entry.number, entry.record) for entry in found] == list(enumerate(scalars(8)))
    assert reported == []


def test_zeros_after_a_power_cut_are_cut_off(tmp_path: Path) -> None:
    write(tmp_path, scalars(3))
    path = tmp_path / "journal" / "000000.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(200_000))
    JournalWriter(tmp_path, info(tmp_path)).close()
    assert path.read_bytes() == whole


def test_an_emptied_segment_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, scalars(2))
    path = tmp_path / "journal" / "000000.jsonl"
    path.write_bytes(b"garbage\nmore\n")
    write(tmp_path, scalars(1))
    assert path.read_bytes() == b"garbage\nmore\n"
    assert [entry.record for entry in entries(tmp_path)] == scalars(1)


# Failures --------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Generator[None]:
    """Limit the file size, which fails like a full disk: `write` writes what fits, then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 150, 1000])
def test_a_full_disk_loses_no_record(tmp_path: Path, room: int) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path))
    path = tmp_path / "journal" / "000000.jsonl"
    writer.append(0, scalars(2))
    writer.flush()
    whole = path.read_bytes()
    writer.append(2, scalars(20, 2))
    for _ in range(2):
        with no_file_larger_than(len(whole) + room), pytest.raises(OSError, match="too large"):
            writer.flush()
        assert path.read_bytes() == whole
        assert (writer.written, writer.next_number) == (2, 22)
    writer.append(22, scalars(1, 22))
    writer.close()
    assert [entry.record for entry in entries(tmp_path)] == scalars(23)


def test_a_full_disk_while_a_segment_begins(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path), max_bytes=500)
    writer.append(0, scalars(20))
    with no_file_larger_than(60), pytest.raises(OSError, match="too large"):
        writer.flush()
    writer.flush()
    writer.close()
    assert [entry.record for entry in entries(tmp_path)] == scalars(20)


def test_a_removed_directory_raises_and_lines_appended_later_are_not_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    writer = JournalWriter(run, info(run))
    writer.append(0, scalars(2))
    writer.flush()
    (run / "journal").rename(tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        path.unlink()
    writer.append(2, scalars(2, 2))
    with pytest.raises(FileNotFoundError):
        writer.flush()
    assert writer.written == 2
    (run / "journal").mkdir()
    writer.close()
    assert [entry.number for entry in entries(run)] == [2, 3]


# Two processes ---------------------------------------------------------------------------------


def test_a_second_writer_is_rejected(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, info(tmp_path))
    with pytest.raises(ConfigurationError, match="another process writes the journal"):
        JournalWriter(tmp_path, info(tmp_path))
    writer.close()
    JournalWriter(tmp_path, info(tmp_path)).close()


def test_a_killed_process_leaves_its_flushed_lines_and_no_lock(tmp_path: Path) -> None:
    process = python(
        """
        writer = JournalWriter(directory, run)
        writer.append(0, [Scalars(10 * n, {"loss": n / 7}, n) for n in range(3)])
        writer.flush()
        writer.append(3, [Text(1, "lost", "")])
        print("ready", flush=True)
        input()
        """,
        str(tmp_path),
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(ConfigurationError, match="another process"):
            JournalWriter(tmp_path, info(tmp_path))
        process.kill()
    write(tmp_path, scalars(1, 3))
    assert [entry.record for entry in entries(tmp_path)] == scalars(4)


def test_a_forked_child_holds_no_lock_and_writes_nothing(tmp_path: Path) -> None:
    process = python(
        """
        import os
        writer = JournalWriter(directory, run)
        writer.append(0, [Scalars(0, {"loss": 0.0}, 0)])
        child = os.fork()
        if child == 0:
            writer.close()
            try:
                writer.append(1, [Text(1, "of the child", "")])
            except Exception as error:
                print(type(error).__name__, os.getpid(), flush=True)
            input()
            os._exit(0)
        writer.flush()
        os.kill(os.getpid(), 9)
        """,
        str(tmp_path),
    )
    with process:
        assert process.stdout is not None
        name, child = process.stdout.readline().split()
        try:
            assert name == "ClosedError"
            assert process.wait(60) == -signal.SIGKILL
            write(tmp_path, scalars(1, 1))  # while the child lives
            assert [entry.record for entry in entries(tmp_path)] == scalars(2)
        finally:
            os.kill(int(child), signal.SIGKILL)
