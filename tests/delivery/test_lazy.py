"""A lazy sequence makes its items once, when they are read, and behaves as the tuple of them."""

from __future__ import annotations

import pickle
import threading

from metriplex.delivery.calls import Call, CallQueue, log_scalars
from metriplex.delivery.lazy import Lazy
from metriplex.records import Scalars


def test_items_are_made_once_by_the_first_of_many_threads() -> None:
    made: list[int] = []
    together = threading.Barrier(8)

    def make() -> list[object]:
        made.append(1)
        return [object(), object()]

    items = Lazy(2, make)
    assert (len(items), bool(items), made) == (2, True, [])
    found: list[tuple[object, ...]] = []

    def read() -> None:
        together.wait()
        found.append(tuple(items))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert len(found) == 8
    assert all(one[0] is found[0][0] and one[1] is found[0][1] for one in found)


def test_it_is_indexed_joined_compared_and_pickled_as_a_tuple() -> None:
    items = Lazy(3, lambda: [1, 2, 3])
    assert (items[0], items[-1], items[1:]) == (1, 3, (2, 3))
    assert items == (1, 2, 3) == Lazy(3, lambda: [1, 2, 3])
    kept = [0]
    kept += items
    assert kept == [0, 1, 2, 3]
    assert (2 in items, items.index(3), items.count(1)) == (True, 2, 1)
    assert [*reversed(items)] == [3, 2, 1]
    assert hash(items) == hash((1, 2, 3))
    assert repr(items) == "(1, 2, 3)"
    assert pickle.loads(pickle.dumps(items)) == (1, 2, 3)


def test_a_queue_joins_lazy_records_without_making_them() -> None:
    made: list[int] = []

    def records(first: int) -> Lazy[Scalars]:
        def make() -> list[Scalars]:
            made.append(first)
            return [Scalars(first, {"a": 1.0}), Scalars(first + 1, {"a": 2.0})]

        return Lazy(2, make)

    queue = CallQueue(100, rereads=False)
    for first in (0, 2, 4):
        queue.add(log_scalars(first, records(first)))
    call = queue.take()
    assert isinstance(call, Call)
    assert (len(call.records), call.first, call.end, made) == (6, 0, 6, [])
    assert [record.step for record in call.arguments["records"]] == list(range(6))
    assert made == [0, 2, 4]
