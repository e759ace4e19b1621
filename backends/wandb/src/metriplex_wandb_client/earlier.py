"""Find what earlier processes have stored of a run, so that nothing is stored twice.

A process that dies may have stored records that nobody has acknowledged. They are sent again, by a
replay, by a run that goes on, or by this run after the death of its client.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import re
import time
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, final

from metriplex_wandb_client.transaction_log import TransactionLog, keep_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LOCK_SECONDS = 50.0
"""Seconds that the client of a process that died may take to store what it has."""


def hold(directory: Path, run_id: str) -> IO[bytes]:
    """Wait until no other client writes a run's logs, and keep others away until this one ends.

    Args:
        directory: W&B's directory of the run.
        run_id: The run's id.

    Returns:
        An open file; the run is held until it is closed.

    Raises:
        TimeoutError: Another client still writes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / f"client-{run_id}.lock").open("wb")
    deadline = time.monotonic() + _LOCK_SECONDS
    # A client's service outlives a client that is killed, and writes what it has been given.
    while not _lock(lock) or _are_open(find_logs(directory, run_id)):
        if time.monotonic() > deadline:
            lock.close()
            raise TimeoutError(
                f"the client of an earlier process still writes this run after {_LOCK_SECONDS:g} s"
            )
        time.sleep(0.02)
    return lock


def _lock(file: IO[bytes]) -> bool:
    """Lock a file for this process; return False if another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _are_open(files: list[Path]) -> bool:
    """Return True if a process has one of the files open, where the system tells (Linux)."""
    if not files:
        return False
    paths = {str(file.resolve()) for file in files}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # another user's process, or one that has ended
            if str(descriptor.readlink()) in paths:
                return True
    return False


def find_logs(directory: Path, run_id: str) -> list[Path]:
    """Return the transaction logs of a run and its lanes.

    Args:
        directory: W&B's directory of the run.
        run_id: The run's id.
    """
    name = re.compile(rf"run-{re.escape(run_id)}(-seed_\d+)?\.wandb")
    return sorted(path for path in directory.glob("*/*.wandb") if name.fullmatch(path.name))


def supersede(log: Path, step_metric: str, step: int) -> None:
    """Remove a log's rows at a step and beyond, if they were not uploaded and never will be.

    Args:
        log: The log of a process that has ended.
        step_metric: The key that holds the step in every row.
        step: The first step that another process logs anew.
    """
    offline = log.parent.name.startswith("offline-")
    if offline and not log.with_name(f"{log.name}.synced").exists():
        keep_records(
            log,
            lambda record: (
                not record.HasField("history")
                or _values(record.history).get(step_metric, -math.inf) < step
            ),
        )


@final
class EarlierRows:
    """The rows that earlier processes have stored, so that none is stored twice.

    Only rows with a time can be recognised; it is the time of their logging. The logs are read when
    the first row comes that is older than this object.

    Args:
        logs: The logs of those processes.
        now: Seconds since the Unix epoch.
    """

    def __init__(self, logs: list[Path], now: float) -> None:
        self._logs = logs
        self._now = now
        self._known_from = math.inf
        self._stored: Counter[bytes] = Counter()

    def take(self, row: Mapping[str, Any]) -> bool:
        """Return True if the row is stored already; each stored row counts once."""
        logged = row.get("_timestamp", math.inf)
        if not self._logs or logged > self._now:
            return False
        if logged < self._known_from:
            self._load(logged)
        identity = _identity(row)
        if not self._stored[identity]:
            return False
        self._stored[identity] -= 1
        return True

    def _load(self, earliest: float) -> None:
        """Read the rows from a time on; all of them, if times turn out not to increase."""
        since = earliest if math.isinf(self._known_from) else -math.inf
        for row in self._rows():
            if since <= row.get("_timestamp", -math.inf) < self._known_from:
                self._stored[_identity(row)] += 1
        self._known_from = since

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for log in self._logs:
            for record in TransactionLog(log).read_new():
                if record.HasField("history"):
                    yield _values(record.history)


def _values(history: Any) -> dict[str, Any]:
    """Return the values of a row; media and other values with parts are a dictionary."""
    values: dict[str, Any] = {}
    for item in history.item:
        key, *inner = item.nested_key or [item.key]
        values[key] = {} if inner else json.loads(item.value_json, parse_int=_integer)
    return values


def _integer(text: str) -> float:
    """Return the number of JSON's `-0`, which is a float, or an integer."""
    return -0.0 if text == "-0" else int(text)


def _identity(row: Mapping[str, Any]) -> bytes:
    """Return a digest that is the same for a row to log and for the row as it is stored."""
    described = sorted(
        (key, repr(_number(value)) if isinstance(value, int | float) else "")
        for key, value in row.items()
        if key not in ("_step", "_runtime", "_wandb")
    )
    return blake2b(repr(described).encode("utf-8", "backslashreplace"), digest_size=16).digest()


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
