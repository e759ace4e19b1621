"""Measure a journal: µs to append a record, scalars a second to read back, seconds to reopen.

The contestants are metriplex's journal, a file of `json.dumps` lines without checksums, and SQLite
with one row per scalar and one transaction per batch. All write batches of 100 records of 20
scalars to a file that survives the process, but not a power loss.

    python benchmarks/journal.py [--short]
"""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from _measure import is_short, print_machine, print_table, ratio, take_turns

from metriplex import RunInfo, Scalars
from metriplex.journal import JournalWriter, newest_step, read_entries

TAGS = [f"train/metric_{number}" for number in range(20)]
BATCH = 100

Write = Callable[[Path, Sequence[Scalars]], None]
Read = Callable[[Path], int]


def make_records(count: int) -> list[Scalars]:
    draw = random.Random(0).gauss
    return [
        Scalars(512 * index, {tag: draw(0, 1) for tag in TAGS}, index, None, 1.7e9 + index)
        for index in range(count)
    ]


def batches(records: Sequence[Scalars]) -> Iterator[tuple[int, Sequence[Scalars]]]:
    for start in range(0, len(records), BATCH):
        yield start, records[start : start + BATCH]


def info(directory: Path) -> RunInfo:
    return RunInfo("0f", "run", directory, 0.0)


def write_journal(directory: Path, records: Sequence[Scalars]) -> None:
    writer = JournalWriter(directory, info(directory), fsync="never")
    for start, batch in batches(records):
        writer.append(start, batch)
        writer.flush()
    writer.close()


def read_journal(directory: Path) -> int:
    records = (entry.record for entry in read_entries(directory))
    return sum(len(record.values) for record in records if isinstance(record, Scalars))


def write_json(directory: Path, records: Sequence[Scalars]) -> None:
    with (directory / "lines.jsonl").open("w", encoding="utf-8") as file:
        for _, batch in batches(records):
            for record in batch:
                line = {"step": record.step, "time": record.wall_time, "values": record.values}
                file.write(json.dumps(line) + "\n")
            file.flush()


def read_json(directory: Path) -> int:
    with (directory / "lines.jsonl").open(encoding="utf-8") as file:
        return sum(len(json.loads(line)["values"]) for line in file)


def write_sqlite(directory: Path, records: Sequence[Scalars]) -> None:
    database = sqlite3.connect(directory / "run.db")
    database.execute("PRAGMA synchronous=OFF")
    database.execute("CREATE TABLE scalars (step INTEGER, time REAL, tag TEXT, value REAL)")
    for _, batch in batches(records):
        rows = [
            (record.step, record.wall_time, tag, value)
            for record in batch
            for tag, value in record.values.items()
        ]
        with database:
            database.executemany("INSERT INTO scalars VALUES (?, ?, ?, ?)", rows)
    database.close()


def read_sqlite(directory: Path) -> int:
    database = sqlite3.connect(directory / "run.db")
    count = sum(1 for _ in database.execute("SELECT * FROM scalars ORDER BY rowid"))
    database.close()
    return count


CONTESTANTS: dict[str, tuple[Write, Read]] = {
    "metriplex journal": (write_journal, read_journal),
    "json.dumps lines": (write_json, read_json),
    "SQLite": (write_sqlite, read_sqlite),
}


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def compare(records: Sequence[Scalars], rounds: int) -> None:
    """Print the results of writing and reading; the contestants take turns."""
    scalars = len(records) * len(TAGS)

    def writing(write: Write) -> float:
        with tempfile.TemporaryDirectory() as directory:
            return seconds(lambda: write(Path(directory), records))

    def reading(write: Write, read: Read) -> float:
        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory), records)
            return seconds(lambda: _expect(read(Path(directory)), scalars))

    writes = take_turns(
        {name: lambda one=write: writing(one) for name, (write, _) in CONTESTANTS.items()}, rounds
    )
    reads = take_turns(
        {name: lambda both=pair: reading(*both) for name, pair in CONTESTANTS.items()}, rounds
    )
    base = "json.dumps lines"
    rows = [
        [
            name,
            f"{min(writes[name]) / len(records) * 1e6:.1f}",
            f"{ratio(writes, name, base):.2f}x",
            f"{scalars / min(reads[name]):,.0f}",
            f"{ratio(reads, name, base):.2f}x",
        ]
        for name in CONTESTANTS
    ]
    print_table(["", "µs a record", "time", "scalars/s read", "time"], rows)


def reopen(count: int) -> None:
    """Print the seconds to reopen a journal, find its newest step, and read its end."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_journal(directory, make_records(count))
        size = sum(path.stat().st_size for path in directory.rglob("*.jsonl"))
        opened = seconds(lambda: JournalWriter(directory, info(directory)).close())
        newest = seconds(lambda: _expect(newest_step(directory)[None], 512 * (count - 1)))
        tail = seconds(lambda: list(read_entries(directory, count - 1000)))
    rows = [
        [f"{count:,}", f"{size / 2**20:,.0f} MiB", *(f"{t:.3f}" for t in (opened, newest, tail))]
    ]
    print_table(["records", "size", "s to reopen", "s to newest step", "s to last 1000"], rows)


def _expect(got: int, expected: int) -> None:
    if got != expected:
        raise SystemExit(f"read {got}, wrote {expected}")


def main() -> None:
    short = is_short(__doc__)
    print_machine("metriplex", "numpy")
    compare(make_records(2_000 if short else 50_000), 1 if short else 5)
    reopen(20_000 if short else 1_000_000)


if __name__ == "__main__":
    main()
