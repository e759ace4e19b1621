"""Which names are those of secrets."""

from __future__ import annotations

import re

MASK = "***"

_SECRET = re.compile(r"key|token|passw|secret|credential", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a name, of a hyper-parameter or an option, is that of a secret such as `api_key`.

    The last part of a nested name counts. Who has the value as well masks only text: `max_tokens`
    is a number, and no secret.
    """
    return _SECRET.search(name.rpartition("/")[2]) is not None
