"""A sequence that is made when it is first read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, final, overload

_Item = TypeVar("_Item")


@final
class Lazy(Sequence[_Item]):
    """A tuple whose items are made when the first one is read. Any thread.

    Args:
        size: Number of items.
        make: Returns the items; called once at most.
    """

    def __init__(self, size: int, make: Callable[[], Iterable[_Item]]) -> None:
        self._size = size
        self._make: Callable[[], Iterable[_Item]] | None = make
        self._items: tuple[_Item, ...] = ()
        self._lock = threading.Lock()

    def made(self) -> tuple[_Item, ...]:
        """Return the items."""
        with self._lock:
            if self._make is not None:
                self._items = tuple(self._make())
                self._make = None
            return self._items

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> _Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[_Item, ...]: ...
    def __getitem__(self, index: int | slice) -> _Item | tuple[_Item, ...]:
        """Return an item, or a tuple of the items of a slice."""
        return self.made()[index]

    def __iter__(self) -> Iterator[_Item]:
        """Iterate over the items."""
        return iter(self.made())

    def __eq__(self, other: object) -> bool:
        """Compare as a tuple."""
        return self.made() == (other.made() if isinstance(other, Lazy) else other)

    def __hash__(self) -> int:
        """Return the hash of the tuple."""
        return hash(self.made())

    def __repr__(self) -> str:
        """Show the tuple."""
        return repr(self.made())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a tuple."""
        return tuple, (self.made(),)
