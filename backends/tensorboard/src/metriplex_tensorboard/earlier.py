"""The events that an earlier process left in a run's directory, which must not be stored again."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Sequence  # noqa: TC003 - part of public annotations
from hashlib import blake2b
from pathlib import Path  # noqa: TC003 - part of public annotations
from typing import final

from metriplex_tensorboard.event_file import read_events

_TIME = struct.Struct("<d")
_TIME_FIELD = 0x09
"""The first byte of a serialized event: field 1, `wall_time`, a double."""


@final
class EarlierEvents:
    """Recognise events that a process had stored, and had no time to acknowledge, before it died.

    A record that is sent again gives the same bytes, the time of its logging included. Files are
    read at the first event that is older than this object. Not thread-safe.

    Args:
        paths: The event files of earlier processes in one directory.
        now: Seconds since the Unix epoch.
    """

    def __init__(self, paths: Sequence[Path], now: float) -> None:
        self._paths = paths
        self._now = now
        self._stored: Counter[bytes] = Counter()
        self._known_from = math.inf

    def load(self, events: Sequence[bytes]) -> None:
        """Read what the files hold from the earliest of these events on, if they may hold it.

        Raises:
            OSError: A file can't be read.
        """
        earliest = min(map(_time, events), default=math.inf)
        if not self._paths or earliest > self._now or earliest >= self._known_from:
            return
        found = (event for event in self._events() if earliest <= _time(event) < self._known_from)
        self._stored.update([*map(_digest, found)])
        self._known_from = earliest

    def without_stored(self, events: Sequence[bytes]) -> list[bytes]:
        """Return the events, after `load`, that are not stored yet, each as often as it lacks."""
        if not self._stored:
            return [*events]
        new = []
        for event in events:
            digest = _digest(event)
            if self._stored[digest] > 0:
                self._stored[digest] -= 1
            else:
                new.append(event)
        return new

    def _events(self) -> Iterator[bytes]:
        for path in self._paths:
            yield from read_events(path)


def _time(event: bytes) -> float:
    """Return the time of a serialized event, in seconds since the Unix epoch; 0 without one."""
    if len(event) <= _TIME.size or event[0] != _TIME_FIELD:
        return 0.0
    (time,) = _TIME.unpack_from(event, 1)
    return time


def _digest(event: bytes) -> bytes:
    return blake2b(event, digest_size=16).digest()
