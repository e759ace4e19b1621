"""Names that MLflow accepts, for any tag.

MLflow's names have letters, digits and `_-. /`, at most 250 of them, and must be normal relative
paths. Any other character becomes `_xHHHH_`, with its code point in hexadecimal. So do a `/` that
would make an empty part, the first dot of the parts `.` and `..`, and a `_` that begins such a
code. `decode` returns the tag of a name, so two tags never share a name.
"""

from __future__ import annotations

import functools
import hashlib
import re

NAME_BYTES = 250
"""Largest number of bytes of a metric's or parameter's name; MLflow's limit is in characters."""

_NOT_ALLOWED = re.compile(
    r"[^\w./ -]"  # MLflow refuses these, and a colon if the server runs on Windows
    r"|_(?=x[0-9A-F]{4})"
    r"|(?:^|(?<=/))\.(?=\.?(?:/|$))"
    r"|^/|(?<=/)/|/$"
    r"|\n"
)
_ESCAPED = re.compile(r"_x([0-9A-F]{4,6})_")
_SHORTENED = re.compile(r"_([0-9a-f]{32})$")


@functools.lru_cache(maxsize=2**16)
def encode(tag: str) -> str:
    """Return a name that MLflow accepts, of any length; the tag itself if MLflow accepts it."""
    return _NOT_ALLOWED.sub(lambda match: f"_x{ord(match[0]):04X}_", tag)


def decode(name: str) -> str:
    """Return the tag whose name `encode` returned."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


@functools.lru_cache(maxsize=2**16)
def shorten(name: str, limit: int) -> str:
    """Return a name of at most `limit` bytes; a longer name keeps its start and gets a digest."""
    whole = name.encode()
    if len(whole) <= limit:
        return name
    digest = hashlib.blake2b(whole, digest_size=16).hexdigest()
    return f"{whole[: limit - 33].decode(errors='ignore')}_{digest}"


def digest_of(name: str) -> str | None:
    """Return the digest at the end of a shortened name; None for any other name."""
    match = _SHORTENED.search(name)
    return match[1] if match else None
