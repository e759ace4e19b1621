"""Names that MLflow takes, for tags that it doesn't.

MLflow's names have letters, digits and `_-. /`, at most 250 of them, and must be normal relative
paths. Another character becomes `_xHHHH_`, its code point in hexadecimal; so do a `/` that
would make an empty part, the first dot of the parts `.` and `..`, and a `_` after which something
follows that looks like such a code. `decode` gives the tag back, so two tags never share a name.
"""

from __future__ import annotations

import functools
import hashlib
import re

NAME_BYTES = 250
"""Bytes of a metric's or a parameter's name: MLflow's limit is as many characters."""

_NOT_ALLOWED = re.compile(
    r"[^\w./ -]"  # what MLflow refuses; a colon it takes unless the server runs on Windows
    r"|_(?=x[0-9A-F]{4})"
    r"|(?:^|(?<=/))\.(?=\.?(?:/|$))"
    r"|^/|(?<=/)/|/$"
    r"|\n"
)
_ESCAPED = re.compile(r"_x([0-9A-F]{4,6})_")
_SHORTENED = re.compile(r"_([0-9a-f]{32})$")


@functools.lru_cache(maxsize=2**16)
def encode(tag: str) -> str:
    """A name that MLflow takes, of any length; the tag itself wherever that is one."""
    return _NOT_ALLOWED.sub(lambda match: f"_x{ord(match[0]):04X}_", tag)


def decode(name: str) -> str:
    """The tag of which `encode` made a name."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


@functools.lru_cache(maxsize=2**16)
def shorten(name: str, limit: int) -> str:
    """A name of at most `limit` bytes: a longer one keeps its start, and ends in its digest."""
    whole = name.encode()
    if len(whole) <= limit:
        return name
    digest = hashlib.blake2b(whole, digest_size=16).hexdigest()
    return f"{whole[: limit - 33].decode(errors='ignore')}_{digest}"


def digest_of(name: str) -> str | None:
    """The digest in which a shortened name ends; None if it doesn't look like one."""
    match = _SHORTENED.search(name)
    return match[1] if match else None
