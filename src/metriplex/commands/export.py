"""`metriplex export`: the scalars of a run as one file for other tools."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from metriplex.errors import ConfigurationError, PluginError
from metriplex.journal.finding import LOG_DIR
from metriplex.reading.run_data import Columns, read

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterator, Mapping

    import numpy as np

FORMATS = ("csv", "parquet", "jsonl")
NAME = "export"
_TEXT: Any = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}


def add_parser(commands: Any) -> None:
    """Says what the command takes."""
    parser = commands.add_parser(NAME, help="write the scalars of a run as CSV, Parquet or JSON")
    parser.add_argument("run", metavar="RUN", help="a run's name under --log-dir, or its directory")
    parser.add_argument("--log-dir", default=LOG_DIR, help="where runs are (%(default)s)")
    parser.add_argument("--to", choices=FORMATS, required=True, help="the format")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--wide", action="store_true", help="one row a step, one column a tag (the default)"
    )
    shape.add_argument("--long", action="store_true", help="one row a value")
    parser.add_argument(
        "--output", metavar="FILE", help="where to (default: RUN.FORMAT here; - is standard output)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the file, and says on standard error what could not be read.

    Raises:
        ConfigurationError: There is no such run, or the file can't be written.
        PluginError: The format needs a package that is not installed.
    """
    data = read(arguments.run, arguments.log_dir)
    for line in data.damage:
        print(f"metriplex: {line}", file=sys.stderr)
    columns = data.long() if arguments.long else data.wide()
    target = arguments.output or f"{data.run.name}.{arguments.to}"
    try:
        write(columns, arguments.to, target)
    except OSError as error:
        raise ConfigurationError(
            f"can't write {target!r} ({error.strerror or error}): give another `--output`"
        ) from error
    if target != "-":
        rows = len(columns["step"])
        print(f"{target}: {rows:,} rows, {len(columns)} columns")
    return 1 if data.damage else 0


def write(columns: Columns, format: str, target: str) -> None:  # noqa: A002 - as on the command line
    """Writes columns as one file.

    Args:
        columns: What `RunData.wide` or `long` gave.
        format: `csv`: numbers exactly, NaN as `nan`, nothing where a row has no value of a tag.
            `jsonl`: an object a row without the members that it lacks; what is not finite is null
            and named in `nonfinite`. `parquet`: as columns.
        target: The file; `-` for standard output.

    Raises:
        PluginError: `parquet` needs pyarrow or polars, and neither is installed.
        OSError: It can't be written.
    """
    if format == "parquet":
        with _opened(target, "wb") as file:
            _write_parquet(columns, file)
        return
    with _opened(target, "w") as file:
        if format == "csv":
            _write_csv(columns, file)
        else:
            _write_jsonl(columns, file)


@contextlib.contextmanager
def _opened(target: str, mode: str) -> Generator[IO[Any]]:
    if target == "-":
        yield sys.stdout.buffer if "b" in mode else sys.stdout
        return
    text = {} if "b" in mode else _TEXT
    with Path(target).open(mode, **text) as file:
        yield file


def _write_csv(columns: Columns, file: IO[str]) -> None:
    writer = csv.writer(file)
    writer.writerow(columns)
    for row in _rows(columns):
        writer.writerow(["" if value is None else value for value in row])


def _write_jsonl(columns: Columns, file: IO[str]) -> None:
    for row in _rows(columns):
        members = {name: v for name, v in zip(columns, row, strict=True) if v is not None}
        others = {
            name: str(value)
            for name, value in members.items()
            if isinstance(value, float) and not math.isfinite(value)
        }
        if others:
            members |= dict.fromkeys(others)
            members["nonfinite"] = others
        file.write(json.dumps(members, allow_nan=False) + "\n")


def _rows(columns: Columns) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns.values()), strict=True)


def _write_parquet(columns: Mapping[str, np.ndarray], file: IO[bytes]) -> None:
    plain = {
        name: column if column.dtype != object else [_sized(value) for value in column]
        for name, column in columns.items()
    }
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        parquet.write_table(pa.table(plain), file)
        return
    try:
        import polars as pl
    except ImportError as error:
        raise PluginError(
            "Parquet needs pyarrow or polars, and neither is installed; to install one: "
            "`pip install pyarrow`"
        ) from error
    pl.DataFrame(plain).write_parquet(file)


def _sized(value: Any) -> str | float | None:
    """What a column of a table holds: integers beyond 64 bits are rounded."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
