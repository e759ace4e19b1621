"""Members of a table, of which the default run takes some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def some_long(members: Iterable[T], *kept: T) -> list[Any]:
    """Parameters: the kept members, and all others, which are marked `long`."""
    every = [*members]
    assert {*kept} <= {*every}, f"{kept} are not all in the table"
    return [one if one in kept else pytest.param(one, marks=pytest.mark.long) for one in every]
