"""Import rich, and restore the state of `random`, which rich's import changes."""

from __future__ import annotations

import random

_before = random.getstate()
try:
    import rich.style
finally:
    random.setstate(_before)

__all__ = ["rich"]
