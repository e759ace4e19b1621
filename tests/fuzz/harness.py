"""Feeds whatever atheris thinks of to the readers: an exception is a finding.

    python tests/fuzz/harness.py journal|sealed|events|messages [-runs=N] [options of libFuzzer]

`journal` and `events` are files as bytes. `sealed` puts the right checksum on every line, and
`messages` on one event, so that what is behind the checksums is tried too.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["metriplex.journal", "metriplex.reading"]):
    from crc32c import crc32c

    from metriplex import Scalars, Text, read
    from metriplex.event_files.reader import event_runs
    from metriplex.journal import (
        Close,
        Hparams,
        JournalWriter,
        Resume,
        newest_step,
        read_entries,
        superseded,
    )
    from metriplex.journal.lines import seal
    from metriplex.records import RunInfo

DIRECTORY = Path(tempfile.mkdtemp())


def journal(data: bytes) -> None:
    """A segment."""
    path = DIRECTORY / "journal" / "000000.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    entries = list(read_entries(DIRECTORY))
    numbers = [entry.number for entry in entries]
    if len(set(numbers)) != len(numbers):
        raise AssertionError(f"a number came twice: {numbers}")
    gone = superseded(DIRECTORY)
    kept = [entry for entry in entries if not gone(entry)]
    newest_step(DIRECTORY)
    found = read(DIRECTORY)
    found.wide(), found.long()
    scalars = [entry.record for entry in kept if isinstance(entry.record, Scalars)]
    if sum(len(record.values) for record in scalars) != len(found.long()["value"]):
        raise AssertionError("`read` and `read_entries` differ")


def sealed(data: bytes) -> None:
    """Lines with the right checksum."""
    lines = data.decode("ascii", "ignore").splitlines()
    journal(b"".join(map(seal, lines)))


def events(data: bytes) -> None:
    """An event file."""
    (DIRECTORY / "events.out.tfevents.1").write_bytes(data)
    for run in event_runs(DIRECTORY):
        list(run.entries())


def messages(data: bytes) -> None:
    """One event with the right checksum."""
    events(_frame(data))


def _frame(data: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def corpus(target: str) -> Path:
    """Examples to begin with."""
    folder = Path(tempfile.mkdtemp())
    scalar = bytes.fromhex("09000000000000f83f10032a0d0a0b0a046c6f7373150000003f")
    (folder / "event").write_bytes(scalar if target == "messages" else _frame(scalar))
    if target in ("journal", "sealed"):
        run = RunInfo("0f", "run", folder, 1.0)
        writer = JournalWriter(folder, run, fsync="never")
        values = {"loss": 0.5, "bad": float("nan"), "n": 2**70}
        writer.append(0, [Hparams({"lr": 0.1}), Scalars(1, values, 0, 2), Text(1, "t", "hi")])
        writer.append(3, [Resume(1), Scalars(1, {"loss": 0.25}), Close("finished")])
        writer.close()
        lines = (folder / "journal" / "000000.jsonl").read_bytes()
        if target == "sealed":
            lines = b"\n".join(line[:-18] for line in lines.splitlines())
        (folder / "event").write_bytes(lines)
    return folder


if __name__ == "__main__":
    name, *options = sys.argv[1:]
    target = {"journal": journal, "sealed": sealed, "events": events, "messages": messages}[name]
    atheris.Setup([sys.argv[0], *options, str(corpus(name))], target)
    atheris.Fuzz()
