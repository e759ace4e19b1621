"""Pack values of any dtype into rows of uint32 words, bit for bit, and unpack them on the host.

A row is a header of `HEADER` words and the values of one schema, scalars before arrays. The header
holds the schema's id, so rows of several schemas can share a buffer, and the host needs only the
words.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import operator
import threading
import zlib
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metriplex.errors import LoggingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Value = jax.Array | np.ndarray


class Header(enum.IntEnum):
    """The words of a row's header."""

    SCHEMA = 0
    RUN = 1
    VALID = 2
    SEQUENCE = 3
    STEP_LOW = 4
    STEP_HIGH = 5
    ITERATION = 6
    LANE = 7
    DEVICE = 8
    DEVICES = 9
    EXECUTION = 10
    DISPATCH = 11


HEADER = len(Header)
NO_SEQUENCE = 0xFFFFFFFF
"""The sequence number of rows that are delivered in the order of their arrival."""


class Kind(enum.StrEnum):
    """The kinds of rows."""

    START = "start"
    RECORD = "record"
    VIDEO = "video"
    END = "end"


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """The place of one value in a row; the word after an optional value holds its presence."""

    tag: str
    shape: tuple[int, ...]
    dtype: str
    optional: bool

    @property
    def words(self) -> int:
        """Return the number of words of the value and its presence."""
        per_item = 2 if np.dtype(self.dtype).itemsize == 8 else 1
        return math.prod(self.shape) * per_item + self.optional


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """The layout of the rows of one logging call, known when the call is traced."""

    kind: Kind
    slots: tuple[Slot, ...]

    @property
    def words(self) -> int:
        """Return the number of words of a row with its header."""
        return HEADER + sum(slot.words for slot in self.slots)


Layout = tuple[tuple[Slot, int, int], ...]
"""The slots of a schema in its order, each with the start and stop of its value in the row."""

_CHUNK = 64
"""Words of scalars that `pack` makes at once, as the work for each word grows with their number."""

_schemas: dict[int, Schema] = {}
_layouts: dict[int, Layout] = {}
_ids: dict[Schema, int] = {}
_lock = threading.Lock()


def schema_id(schema: Schema) -> int:
    """Register a schema and return its 32-bit id, the same in every process for equal schemas."""
    with _lock:
        if schema not in _ids:
            number = zlib.crc32(repr(schema).encode())
            while number in _schemas:
                number = (number + 1) % 2**32
            _layouts[number] = _layout(schema)
            _schemas[number] = schema
            _ids[schema] = number
        return _ids[schema]


def _layout(schema: Schema) -> Layout:
    places: dict[Slot, tuple[int, int]] = {}
    start = HEADER
    for slot in sorted(schema.slots, key=lambda slot: bool(slot.shape)):
        places[slot] = start, start + slot.words - slot.optional
        start += slot.words
    return tuple((slot, *places[slot]) for slot in schema.slots)


def make_schema(kind: Kind, values: Mapping[str, Value], optional: Sequence[str] = ()) -> Schema:
    """Return the schema of a row with these values, which may be traced, by tag.

    Optional tags are those of values whose presence only the running program knows. Raises
    `LoggingError` for a dtype that can't be logged.
    """
    slots = []
    for tag, value in values.items():
        if not is_real_dtype(value.dtype):
            raise LoggingError(
                f"`{tag}` has dtype `{value.dtype}`; expected a bool, an integer or a real "
                f"floating dtype: convert it, or leave it out"
            )
        slots.append(Slot(tag, tuple(value.shape), str(value.dtype), tag in optional))
    return Schema(kind, tuple(slots))


def is_real_dtype(dtype: Any) -> bool:
    """Return True for bools, integers and real floats, also for jax's extension dtypes of these."""
    if jnp.issubdtype(dtype, np.timedelta64):  # which NumPy counts as an integer
        return False
    return any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))


def _to_words(value: Value) -> jax.Array | np.ndarray:
    """Return the bits of a value as uint32 words; float arithmetic could change a NaN's bits.

    Constants of the host stay there: all their bits are exact, also if jax has no 64-bit types.
    """
    if not isinstance(value, jax.Array):
        return _constant_words(np.asarray(value))
    dtype = np.dtype(value.dtype)
    array = lax.stop_gradient(value)
    if jnp.issubdtype(dtype, jnp.floating):
        bits = _float_bits(dtype)
        if bits < 8:
            array, bits = array.astype(jnp.float32), 32
        array = lax.bitcast_convert_type(
            array, {8: jnp.uint8, 16: jnp.uint16}.get(bits, jnp.uint32)
        )
    elif dtype.itemsize == 8:
        array = lax.bitcast_convert_type(array, jnp.uint32)
    elif jnp.issubdtype(dtype, jnp.signedinteger):
        array = lax.bitcast_convert_type(array.astype(jnp.int32), jnp.uint32)
    return array.astype(jnp.uint32).reshape(-1)


def _constant_words(value: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(value).reshape(-1)
    if jnp.issubdtype(array.dtype, jnp.floating):
        bits = _float_bits(array.dtype)
        if bits < 8:
            array, bits = array.astype(np.float32), 32
        array = array.view({8: np.uint8, 16: np.uint16}.get(bits, np.uint32))
    elif array.dtype.itemsize == 8:
        array = array.view(np.uint32)
    elif jnp.issubdtype(array.dtype, jnp.signedinteger):
        array = array.astype(np.int32).view(np.uint32)
    return array.astype(np.uint32)


def _float_bits(dtype: np.dtype[Any]) -> int:
    # `jnp.finfo` warns under older NumPy in threads that flush denormals, so it is not used.
    return 4 if dtype.name.startswith(("float4_", "float6_")) else dtype.itemsize * 8


def _from_words(words: np.ndarray, slot: Slot) -> np.ndarray:
    """Return values `[rows, *shape]` from uint32 `[rows, words]`: the inverse of `_to_words`."""
    dtype = np.dtype(slot.dtype)
    shape = (len(words), *slot.shape)
    if dtype == np.bool_:
        return words.astype(np.bool_).reshape(shape)
    if jnp.issubdtype(dtype, jnp.floating):
        bits = _float_bits(dtype)
        if bits < 8:
            return words.view(np.float32).astype(dtype).reshape(shape)
        if bits < 32:
            words = words.astype(f"uint{bits}")
        return words.view(dtype).reshape(shape)
    if dtype.itemsize == 8:
        return words.view(dtype).reshape(shape)
    if jnp.issubdtype(dtype, jnp.signedinteger):
        words = words.view(np.int32)
    return words.astype(dtype).reshape(shape)


def _to_python(array: np.ndarray) -> list[bool | int | float]:
    if array.dtype.kind not in "biuf":  # an extension dtype of at most 16 bits
        is_float = jnp.issubdtype(array.dtype, jnp.floating)
        array = array.astype(np.float32 if is_float else np.int32)
    return array.tolist()


def pack(
    schema: Schema,
    header: Mapping[Header, jax.Array | int],
    values: Mapping[str, Value],
    present: Mapping[str, jax.Array],
) -> jax.Array:
    """Return one row, uint32 `[schema.words]`, on the device.

    The header has every word except the schema's id: ints that fit in 32 bits, or int32, uint32 or
    bool scalars. The values are those given to `make_schema`; every optional one has a bool scalar
    in `present`.
    """
    number = schema_id(schema)
    scalars: dict[int, Value] = {
        word: np.asarray(value % 2**32, np.uint32) if isinstance(value, int) else value
        for word, value in {**header, Header.SCHEMA: number}.items()
    }
    arrays: list[Value] = []
    for slot, start, stop in _layouts[number]:
        flag = [present[slot.tag]] if slot.optional else []
        if slot.shape:
            arrays += [values[slot.tag], *flag]
        else:
            scalars |= zip((start, stop), [values[slot.tag], *flag], strict=False)
    parts = [*_scatter(scalars), *(jnp.asarray(_to_words(value)) for value in arrays)]
    if len(parts) == 1:
        return parts[0]
    # Under vmap over a sharded axis of an Explicit mesh, jax can't concatenate batched parts with
    # unbatched parts. A zero that depends on every part batches them all; XLA folds it away.
    zero = functools.reduce(operator.or_, [part[0] & jnp.uint32(0) for part in parts if part.size])
    return jnp.concatenate([part | zero for part in parts])


def _scatter(scalars: Mapping[int, Value]) -> Iterator[jax.Array]:
    """Yield the words of scalars by place, uint32 `[at most _CHUNK]` at a time.

    XLA makes one operation of padded words, whatever their dtypes are, and fuses the write to a
    buffer with it. A concatenation takes an operation for each word, as XLA on a CPU fuses it with
    nothing.
    """
    known: dict[int, int] = {}
    traced: dict[int, jax.Array] = {}
    for place, value in scalars.items():
        words = _to_words(value)
        if isinstance(words, np.ndarray):
            known |= enumerate(words.tolist(), place)
        else:
            traced |= {place + index: words[index] for index in range(words.size)}
    width = len(known) + len(traced)
    for start in range(0, width, _CHUNK):
        places = range(start, min(start + _CHUNK, width))
        row = jnp.zeros(len(places), jnp.uint32)
        for index, place in enumerate(places):
            # XLA makes one constant of the known words; an array of them would be captured.
            word = (
                traced[place][None] if place in traced else lax.full((1,), np.uint32(known[place]))
            )
            row |= lax.pad(word, np.uint32(0), [(index, len(places) - index - 1, 0)])
        yield row


def kind_of(number: int) -> Kind:
    """Return the kind of the schema with this id."""
    return _schemas[number].kind


def unpack(words: np.ndarray) -> list[dict[str, Any]]:
    """Return the present values of each row, uint32 `[rows, words]`, by tag, on the host.

    All rows are of the first one's schema; columns beyond the schema's width are padding. Values of
    shape () become Python scalars, all others arrays.
    """
    number = int(words[0, Header.SCHEMA])
    words = np.ascontiguousarray(words[:, : _schemas[number].words])
    # Most values are float32 scalars, which are converted all at once.
    as_floats = words.view(np.float32).T.tolist()
    columns: list[tuple[str, list[Any], list[int] | None]] = []
    for slot, start, stop in _layouts[number]:
        if _is_float32(slot):
            column = as_floats[start]
        else:
            array = _from_words(np.ascontiguousarray(words[:, start:stop]), slot)
            column = list(array) if slot.shape else _to_python(array)
        there = words[:, stop].tolist() if slot.optional and not words[:, stop].all() else None
        columns.append((slot.tag, column, there))
    if columns and all(there is None for _, _, there in columns):  # the common case
        tags = [tag for tag, _, _ in columns]
        rows = zip(*(column for _, column, _ in columns), strict=True)
        return [dict(zip(tags, row)) for row in rows]  # noqa: B905 - much of the time is the check
    return [
        {tag: column[row] for tag, column, there in columns if there is None or there[row]}
        for row in range(len(words))
    ]


def are_clean(words: np.ndarray, may_be_nan: Callable[[str], bool]) -> bool:
    """Return True if each row has values, all of them finite, or NaN where that is allowed.

    Return False if that is unknown: only scalars are examined, and of floats only float32.

    Args:
        words: Rows as for `unpack`.
        may_be_nan: Returns True for a tag whose value may be NaN.
    """
    number = int(words[0, Header.SCHEMA])
    examined = _examined(number)
    if examined is None:
        return False
    tags, starts, stops, filled = examined
    values = words.view(np.float32)[:, starts]
    unfit = ~np.isfinite(values)
    if unfit.any():
        unfit &= (words[:, stops] != 0) & ~(np.isnan(values) & list(map(may_be_nan, tags)))
        if unfit.any():
            return False
    return filled or bool((words[:, stops] != 0).any(axis=1).all())


def as_numbers(words: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the tags of the scalars in rows as for `unpack`, and float64 `[rows, tags]`.

    NaN stands for a value that is absent.
    """
    layout = [place for place in _layouts[int(words[0, Header.SCHEMA])] if not place[0].shape]
    numbers = np.empty((len(words), len(layout)))
    for index, (slot, start, stop) in enumerate(layout):
        numbers[:, index] = _from_words(np.ascontiguousarray(words[:, start:stop]), slot)
        if slot.optional:
            numbers[words[:, stop] == 0, index] = np.nan
    return tuple(slot.tag for slot, _, _ in layout), numbers


@functools.cache
def _examined(number: int) -> tuple[list[str], slice | np.ndarray, np.ndarray, bool] | None:
    """Return the float32 scalars of a schema; None if it has floats of other dtypes, or arrays.

    They are the tags, the columns of their values, the columns of their presences, and True if a
    row always has a value. The presence of what is always there is the validity of the row.
    """
    found: list[tuple[str, int, int]] = []
    for slot, start, stop in _layouts[number]:
        if _is_float32(slot):
            found.append((slot.tag, start, stop if slot.optional else Header.VALID))
        elif slot.shape or jnp.issubdtype(np.dtype(slot.dtype), jnp.floating):
            return None
    starts: slice | np.ndarray = np.array([start for _, start, _ in found], np.intp)
    if len(starts) and starts[-1] - starts[0] + 1 == len(starts):
        starts = slice(starts[0], starts[-1] + 1)  # a view, where no value is optional
    stops = np.array([stop for _, _, stop in found], np.intp)
    filled = any(not slot.optional for slot in _schemas[number].slots)
    return [tag for tag, _, _ in found], starts, stops, filled


def _is_float32(slot: Slot) -> bool:
    return not slot.shape and slot.dtype == "float32"
