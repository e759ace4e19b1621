"""Blocks that are decoded together give the same rows as blocks that are decoded one by one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex.bridge.decode import Block, read
from metriplex.bridge.packing import Header, Kind, make_schema, pack

if TYPE_CHECKING:
    from metriplex.bridge.rows import Row, Rows

TAGS = ("a", "b")
HEADER = {**dict.fromkeys(Header, -1), Header.DEVICES: 1}


@functools.cache
def one_row(tag: str, value: int) -> np.ndarray:
    values = {tag: np.asarray(value, np.float32)}
    return np.asarray(pack(make_schema(Kind.RECORD, values), HEADER, values, {}))


def row(tag: str, value: int, run: int, sequence: int, *, valid: bool) -> np.ndarray:
    words = one_row(tag, value).copy()
    words[[Header.RUN, Header.SEQUENCE, Header.VALID]] = run, sequence, valid
    return words


rows = st.builds(
    row,
    st.sampled_from(TAGS),
    st.integers(0, 2),
    run=st.integers(1, 2),
    sequence=st.integers(0, 2**32 - 1),
    valid=st.booleans(),
)


def arrays(*shape: int) -> st.SearchStrategy[np.ndarray]:
    count = int(np.prod(shape))
    return st.lists(rows, min_size=count, max_size=count).map(
        lambda found: np.stack(found).reshape(*shape, -1)
    )


def by_run(parts: list[tuple[int, Rows]]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for run, some in parts:
        found.setdefault(run, []).extend(some)
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(arrays(1), arrays(3), arrays(2, 1), arrays(2, 2)), max_size=6))
def test_blocks_read_together_are_blocks_read_one_by_one(contents: list[Any]) -> None:
    blocks = [Block(jnp.asarray(words), 1000.0 + index) for index, words in enumerate(contents)]
    together = read(blocks)
    alone = [part for block in blocks for part in read([block])]
    assert by_run(together) == by_run(alone)
    for _, found in together:
        assert [one.wall_time for one in found] == sorted(one.wall_time for one in found)


def test_lanes_are_numbered_from_0_in_every_block_also_with_mixed_schemas() -> None:
    lanes = np.stack([[row("b", 1, 7, 0, valid=True)], [row("a", 2, 7, 0, valid=True)]])
    ((run, found),) = read([Block(jnp.asarray(lanes), 5.0), Block(jnp.asarray(lanes), 6.0)])
    assert run == 7
    assert [(one.lane, one.wall_time, one.values) for one in found] == [
        (0, 5.0, {"b": 1.0}),
        (1, 5.0, {"a": 2.0}),
        (0, 6.0, {"b": 1.0}),
        (1, 6.0, {"a": 2.0}),
    ]


def test_a_row_has_the_number_of_lanes_of_its_program_if_the_block_determines_it() -> None:
    def lanes(*cells: np.ndarray) -> list[int]:
        found = read([Block(jnp.asarray(np.stack(cells)[:, None]), 5.0)])
        return [one.lanes for _, some in found for one in some]

    def numbered(header: Header, value: int) -> np.ndarray:
        words = row("a", 0, 7, 0, valid=True)
        words[header] = value
        return words

    here, gone = (row("a", 0, 7, 0, valid=valid) for valid in (True, False))
    assert lanes(here, here, here) == [3, 3, 3]
    assert lanes(here, gone, np.zeros_like(here)) == [3]
    assert lanes(here, row("a", 0, 8, 0, valid=True)) == [0, 0]
    assert lanes(*(numbered(Header.LANE, lane) for lane in (4, 5))) == [0, 0]
    there = numbered(Header.DEVICE, 1)
    there[Header.DEVICES] = 4
    assert lanes(there, there) == [8, 8]
    ((_, (alone,)),) = read([Block(jnp.asarray(there[None]), 5.0)])
    assert (alone.lane, alone.lanes) == (1, 4)
    ((_, (alone,)),) = read([Block(jnp.asarray(here[None]), 5.0)])
    assert (alone.lane, alone.lanes) == (None, 0)
