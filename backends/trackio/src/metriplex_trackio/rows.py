"""Rows of Trackio's table `metrics`, each with the values that one lane logs at one step."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Mapping  # noqa: TC003 - part of public annotations
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, final

from trackio.utils import RESERVED_KEYS

from metriplex import LoggingError, Scalar


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        lane: The lane; None for the run itself.
        step: The step, an integer of 64 bits.
        timestamp: ISO 8601, UTC.
        metrics: JSON: name to value.
        key: Trackio stores rows of one key once, however often they are sent; None for a row
            without a time of its own.
    """

    lane: int | None
    step: int
    timestamp: str
    metrics: bytes
    key: str | None


def make_row(
    run_id: str, lane: int | None, step: int, wall_time: float, values: Mapping[str, Any]
) -> Row:
    """Encode values as Trackio does.

    Args:
        run_id: The id of the whole run.
        lane: The lane; None for the run itself.
        step: The step.
        wall_time: Seconds since the Unix epoch; 0 stands for now.
        values: Scalars, or Trackio's dictionaries of media, by tag.

    Raises:
        LoggingError: The step is no int64, or a tag is empty.
    """
    if not -(2**63) <= step < 2**63:
        raise LoggingError(
            f"`step` must fit into a signed 64-bit integer, which is what SQLite stores; got {step}"
        )
    named = {stored_name(tag): _plain(value) for tag, value in values.items()}
    metrics = json.dumps(named, ensure_ascii=False, allow_nan=False).encode()
    key = None
    if wall_time:
        digest = hashlib.blake2b(metrics, digest_size=16, key=run_id.encode()[:64])
        digest.update(f" {lane} {step} {wall_time!r}".encode())
        key = digest.hexdigest()
    return Row(lane, step, timestamp(wall_time), metrics, key)


def encode_config(hparams: Mapping[str, Scalar | str | None]) -> bytes:
    """Encode the configuration of a run as Trackio does."""
    plain = {
        _text(name): _text(value) if isinstance(value, str) else _plain(value)
        for name, value in hparams.items()
    }
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()


@functools.lru_cache(maxsize=2**14)
def stored_name(tag: str) -> str:
    """Return Trackio's name for a tag; names that Trackio reserves are changed.

    Raises:
        LoggingError: The tag is empty.
    """
    if not tag:
        raise LoggingError("a tag must not be empty: name what is logged")
    reserved = tag in RESERVED_KEYS or tag.startswith("__")
    return _text(f"__{tag}" if reserved else tag)


def timestamp(wall_time: float) -> str:
    """Return a time in Trackio's format; 0 stands for now."""
    return datetime.fromtimestamp(wall_time or time.time(), UTC).isoformat()


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold; Trackio has words for numbers that are not finite."""
    if isinstance(value, float):
        value = float(value)  # NumPy's float64 is a float too
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return _plain(_float(value))  # Trackio's JSON limits integers to 64 bits
    return value


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _text(text: str) -> str:
    """Return text that UTF-8 can encode; lone surrogates are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
