"""Write the scalars of a run to a file for other tools: `metriplex export`."""

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
from metriplex.messages import print_line
from metriplex.reading.run_data import Columns, read

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterator, Mapping

    import numpy as np

FORMATS = ("csv", "parquet", "jsonl")
_TEXT: Any = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}


def add_parser(commands: Any) -> None:
    """Add the subcommand with its arguments."""
    parser = commands.add_parser(
        "export", help="write the scalars of a run as CSV, Parquet or JSON"
    )
    parser.set_defaults(function=run)
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
    """Write the file; print to standard error what can't be read, and return 1 if there is any."""
    data = read(arguments.run, arguments.log_dir)
    for line in data.damage:
        print_line(f"metriplex: {line}", error=True)
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
        print_line(f"{target}: {rows:,} rows, {len(columns)} columns")
    return 1 if data.damage else 0


def write(columns: Columns, format: str, target: str) -> None:  # noqa: A002 - as on the command line
    """Write the columns of `RunData.wide` or `RunData.long` to a file; `-` is standard output.

    `csv` has exact numbers; NaN, also for a cell without a value, is `nan`. `jsonl` has one object
    per row; a value that is not finite is null, and `nonfinite` names it. `parquet` is a table with
    the same columns.

    Raises:
        PluginError: `parquet` needs pyarrow or polars, and neither is installed.
        OSError: The file can't be written.
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
    writer.writerows(_rows(columns))


def _write_jsonl(columns: Columns, file: IO[str]) -> None:
    for row in _rows(columns):
        members = dict(zip(columns, row, strict=True))
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


def _sized(value: Any) -> str | float:
    """Return a value that Parquet can store: valid UTF-8, or a float for a larger integer."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
