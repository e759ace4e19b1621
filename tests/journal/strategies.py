"""Strategies for records of every kind, and helpers of the journal's tests."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from metriplex import Artifact, Clip, Histogram, Image, RunInfo, Scalars, Text, Video
from metriplex.journal import Close, Entry, Hparams, JournalWriter, Resume, read_entries

TAGS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=8)
VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_subnormal=True),
    st.sampled_from([2**53 + 1, -0.0, 5e-324, math.nan, math.inf, -math.inf, 10**400, -(10**5000)]),
)
STEPS = st.integers(0, 2**40)
LANES = st.none() | st.integers(0, 300)
TIMES = st.floats(0, 4e9)

SCALARS = st.builds(
    Scalars, STEPS, st.dictionaries(TAGS, VALUES, max_size=4), st.none() | STEPS, LANES, TIMES
)
HPARAMS = st.builds(Hparams, st.dictionaries(TAGS, VALUES | TAGS, max_size=4))
TEXTS = st.builds(Text, STEPS, TAGS, TAGS, LANES, TIMES)
HISTOGRAMS = st.builds(
    lambda counts, step, tag, lane: Histogram(
        step, tag, np.array(counts, np.int64), np.linspace(-1.0, 1.0, len(counts) + 1), lane
    ),
    st.lists(st.integers(0, 2**62), min_size=1, max_size=4),
    STEPS,
    TAGS,
    LANES,
)
INLINE = SCALARS | HPARAMS | TEXTS | HISTOGRAMS | st.builds(Resume, STEPS)
"""Records without media files."""


def info(directory: Path, **changes: Any) -> RunInfo:
    known = RunInfo(id="0f", name="run", directory=directory, start_time=1.5)
    return dataclasses.replace(known, **changes)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def media_records(directory: Path) -> list[Any]:
    """Return one record of each kind that has a media file."""
    kept = directory / "artifacts" / "step_5"
    (kept / "net").mkdir(parents=True)
    (kept / "net" / "a.bin").write_bytes(b"\0\1\2")
    (kept / "one.txt").write_bytes(b"one")
    clip = Clip(b"GIF89a...", "gif", 4, 2, 3, 50.0, 0.06)
    return [
        Image(1, "../../etc/passwd", pixels(2, 3, 3), 7, 2.5),
        Video(2, "eval/video", pixels(3, 2, 4, 3), 50.0),
        Video(3, "eval/video", None, 30.0, clips={"gif": clip}),
        Artifact(5, "net", kept / "net"),
        Artifact(5, "one.txt", kept / "one.txt", 1, 3.0),
    ]


def write(directory: Path, records: list[Any], **options: Any) -> None:
    writer = JournalWriter(directory, info(directory), **options)
    writer.append(writer.next_number, records)
    writer.close()


def entries(directory: Path, start: int = 0) -> list[Entry]:
    return list(read_entries(directory, start))


def same(left: Any, right: Any) -> bool:
    """Return True if values are equal in type, NaNs, the sign of zeros and arrays."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if hasattr(left, "__dataclass_fields__"):
        names = left.__dataclass_fields__
        return type(left) is type(right) and all(
            same(getattr(left, name), getattr(right, name)) for name in names
        )
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or (left == right and math.copysign(1, left) == math.copysign(1, right))
    return type(left) is type(right) and left == right


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that imports only the host half, which is quick."""
    package = Path(sys.modules["metriplex"].__file__ or "").parent
    head = f"""
        import sys, types
        package = types.ModuleType("metriplex")
        package.__path__ = [{str(package)!r}]
        sys.modules["metriplex"] = package
        from pathlib import Path
        from metriplex.journal import *
        from metriplex.records import *
        directory = Path(sys.argv[1])
        run = RunInfo("0f", "run", directory, 1.5)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


__all__ = [
    "HISTOGRAMS",
    "HPARAMS",
    "INLINE",
    "SCALARS",
    "TEXTS",
    "Close",
    "entries",
    "info",
    "media_records",
    "pixels",
    "python",
    "same",
    "write",
]
