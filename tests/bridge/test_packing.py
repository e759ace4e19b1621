from __future__ import annotations

import math
import subprocess
import sys
import zlib
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex.bridge import packing
from metriplex.bridge.packing import (
    HEADER,
    NO_SEQUENCE,
    Header,
    Kind,
    Schema,
    Slot,
    are_clean,
    as_numbers,
    kind_of,
    make_schema,
    pack,
    schema_id,
    unpack,
)
from metriplex.errors import LoggingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NARROW = [
    *("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32"),
    *("float16", "bfloat16", "float32"),
    *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
TINY = ["int2", "uint2", "int4", "uint4", "float4_e2m1fn"]
WIDE = ["int64", "uint64", "float64"]
HEADER_WORDS: Mapping[Header, int] = {word: 0 for word in Header if word != Header.SCHEMA}
ITEMS = 16


def x64(on: bool) -> AbstractContextManager[Any]:
    return jax.enable_x64(True) if on else nullcontext()


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).view(np.uint8).tobytes()


@cache
def packed(dtype: str, *, wide: bool) -> Callable[[Any], np.ndarray]:
    """Compile the packing of `[ITEMS]` values of a dtype."""
    like = jax.ShapeDtypeStruct((ITEMS,), dtype)
    schema = make_schema(Kind.RECORD, {"a": like})  # ty: ignore[invalid-argument-type] - a shape
    program = jax.jit(lambda value: pack(schema, HEADER_WORDS, {"a": value}, {})[None])

    def run(value: Any) -> np.ndarray:
        with x64(wide):
            return np.asarray(program(value))

    return run


def through(dtype: str, pattern: bytes, *, wide: bool = False) -> np.ndarray:
    value = np.frombuffer(pattern, np.dtype(dtype))
    (values,) = unpack(packed(dtype, wide=wide)(value))
    assert values["a"].dtype == np.dtype(dtype)
    assert values["a"].shape == (ITEMS,)
    return values["a"]


def patterns(itemsize: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=ITEMS * itemsize, max_size=ITEMS * itemsize)


@pytest.mark.parametrize("dtype", [name for name in NARROW if name != "bool"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_bit_pattern_of_a_narrow_dtype_survives(dtype: str, data: st.DataObject) -> None:
    pattern = data.draw(patterns(np.dtype(dtype).itemsize))
    assert bits(through(dtype, pattern)) == pattern


@pytest.mark.parametrize("dtype", WIDE)
@settings(max_examples=25, deadline=None)
@given(pattern=patterns(8))
def test_every_bit_pattern_of_a_wide_dtype_survives_with_x64(dtype: str, pattern: bytes) -> None:
    assert bits(through(dtype, pattern, wide=True)) == pattern


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_constants_of_the_host_keep_all_bits_even_without_x64(
    dtype: str, wide: bool, data: st.DataObject
) -> None:
    pattern = data.draw(patterns(np.dtype(dtype).itemsize))
    if dtype == "bool":
        pattern = bytes(byte & 1 for byte in pattern)
    value = np.frombuffer(pattern, np.dtype(dtype))
    with x64(wide):
        row = pack(make_schema(Kind.RECORD, {"a": value}), HEADER_WORDS, {"a": value}, {})
    (values,) = unpack(np.asarray(row)[None])
    assert values["a"].dtype == value.dtype
    assert bits(values["a"]) == pattern


def test_bools_survive() -> None:
    value = np.arange(ITEMS) % 3 == 0
    np.testing.assert_array_equal(through("bool", value.tobytes()), value)


@pytest.mark.parametrize("dtype", TINY)
def test_dtypes_below_a_byte_survive(dtype: str) -> None:
    width = 2 if dtype.endswith("2") else 4
    value = np.arange(ITEMS, dtype=np.uint8) % 2**width
    if dtype == "float4_e2m1fn":  # all 16 values
        half = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        value = np.asarray([*half, *(-number for number in half)], np.float32)
    value = value.astype(np.dtype(dtype))
    np.testing.assert_array_equal(through(dtype, value.tobytes()), value)


@pytest.mark.parametrize(
    "pattern",
    [0x7FC00001, 0x7F800001, 0xFFC12345, 0x00000001, 0x807FFFFF, 0x80000000, 0x7F800000],
    ids=["quiet", "signalling", "payload", "denormal", "-denormal", "-0", "inf"],
)
def test_float32_passes_without_arithmetic(pattern: int) -> None:
    values = np.full(ITEMS, pattern, np.uint32)
    np.testing.assert_array_equal(through("float32", values.tobytes()).view(np.uint32), values)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.1), 0.10000000149011612),
        (np.float64(0.1), 0.1),
        (np.float16(0.1), 0.0999755859375),
        (np.int64(-(2**63)), -(2**63)),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.uint32(2**32 - 1), 2**32 - 1),
        (np.int8(-128), -128),
        (np.bool_(True), True),
        (np.asarray(0.1).astype(jnp.bfloat16), 0.10009765625),
        (np.asarray(-0.375).astype(jnp.float8_e4m3fn), -0.375),
        (np.asarray(-7).astype(jnp.int4), -7),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")) or None,
)
def test_a_scalar_arrives_as_the_python_number_of_its_value(
    value: np.generic, expected: float, wide: bool
) -> None:
    array = np.asarray(value)
    with x64(wide):
        row = pack(make_schema(Kind.RECORD, {"a": array}), HEADER_WORDS, {"a": array}, {})
    (values,) = unpack(np.asarray(row)[None])
    assert values == {"a": expected}
    assert type(values["a"]) is type(expected)


@pytest.mark.parametrize("wide", [False, True])
def test_every_header_entry_takes_one_word_with_and_without_x64(wide: bool) -> None:
    values = {"a": np.asarray(1, np.float32)}
    header = {word: -1 for word in Header if word != Header.SCHEMA}
    header[Header.SEQUENCE] = NO_SEQUENCE
    header[Header.STEP_LOW] = 7
    schema = make_schema(Kind.END, values)
    with x64(wide):
        row = np.asarray(pack(schema, header, values, {}))
    assert row.dtype == np.uint32
    assert len(row) == schema.words == HEADER + 1
    assert row[Header.SCHEMA] == schema_id(schema)
    assert row[Header.LANE].view(np.int32) == -1
    assert row[Header.STEP_LOW] == 7
    assert kind_of(schema_id(schema)) == Kind.END
    assert unpack(row[None]) == [{"a": 1.0}]


def test_shapes_survive_and_optional_values_may_differ_from_row_to_row() -> None:
    matrix = np.arange(6, dtype=np.int16).reshape(2, 3)
    values = {
        "matrix": jnp.asarray(matrix),
        "maybe": jnp.float32(0.5),
        "empty": jnp.zeros((0, 2)),
        "wide": np.asarray([[1e300]]),
        "last": jnp.asarray(True),
    }
    schema = make_schema(Kind.RECORD, values, ("maybe", "wide"))
    assert schema.words == HEADER + 6 + 2 + 0 + 3 + 1

    @jax.jit
    @jax.vmap
    def rows(maybe: jax.Array, wide: jax.Array) -> jax.Array:
        return pack(schema, HEADER_WORDS, values, {"maybe": maybe, "wide": wide})

    there = [(True, True), (True, False), (False, True), (False, False)]
    words = np.asarray(rows(*(jnp.asarray(column) for column in zip(*there, strict=True))))
    padded = np.pad(words, ((0, 0), (0, 5)), constant_values=77)
    for (maybe, wide), found in zip(there, unpack(padded), strict=True):
        names = ["matrix", *["maybe"] * maybe, "empty", *["wide"] * wide, "last"]
        assert list(found) == names
        np.testing.assert_array_equal(found["matrix"], matrix)
        assert found["matrix"].dtype == np.int16
        assert found["empty"].shape == (0, 2)
        assert found.get("maybe", 0.5) == 0.5
        assert found.get("wide", np.asarray([[1e300]])) == [[1e300]]
        assert found["last"] is True


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.zeros((), np.complex64), "complex64"),
        (jax.random.key(0), "key<fry>"),
        (np.asarray("text"), "<U4"),
        (np.zeros((), jax.dtypes.float0), "float0"),
        (np.asarray(None, object), "object"),
    ],
    ids=["complex", "key", "text", "float0", "object"],
)
def test_a_value_that_is_no_real_number_is_rejected_by_name(value: Any, dtype: str) -> None:
    with pytest.raises(LoggingError, match=r"`a/b` has dtype") as caught:
        make_schema(Kind.RECORD, {"fine": np.zeros(()), "a/b": value})
    assert dtype in str(caught.value)
    assert "leave it out" in str(caught.value)


@pytest.mark.long
def test_equal_schemas_have_one_id_in_every_process() -> None:
    slots = (Slot("train/loss", (), "float32", optional=True), Slot("b", (2,), "int8", False))
    code = (
        "from metriplex.bridge.packing import *\n"
        "slots = Slot('train/loss', (), 'float32', True), Slot('b', (2,), 'int8', False)\n"
        "print(schema_id(Schema(Kind.RECORD, slots)))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert schema_id(Schema(Kind.RECORD, slots)) == int(elsewhere.stdout)
    assert schema_id(Schema(Kind.RECORD, tuple(slots))) == int(elsewhere.stdout)
    others = {
        schema_id(Schema(Kind.START, slots)),
        schema_id(Schema(Kind.RECORD, slots[::-1])),
        schema_id(Schema(Kind.RECORD, slots[:1])),
    }
    assert len(others | {int(elsewhere.stdout)}) == 4


def test_schemas_whose_ids_collide_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_schemas", {})
    monkeypatch.setattr(packing, "_ids", {})
    monkeypatch.setattr(zlib, "crc32", lambda _: 2**32 - 1)
    values = {tag: jnp.float32(number) for number, tag in enumerate("abc")}
    schemas = [make_schema(Kind.RECORD, {tag: value}) for tag, value in values.items()]
    assert [schema_id(schema) for schema in schemas] == [2**32 - 1, 0, 1]
    assert [schema_id(schema) for schema in schemas] == [2**32 - 1, 0, 1]
    for number, schema in enumerate(schemas):
        row = np.asarray(pack(schema, HEADER_WORDS, values, {}))
        assert unpack(row[None]) == [{"abc"[number]: float(number)}]


# ---- columns ------------------------------------------------------------------------------------

FLOATS = st.sampled_from([0.0, -1.5, 3e38, float("nan"), float("inf"), float("-inf")])


@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS, st.booleans(), st.booleans()), min_size=1))
def test_rows_are_clean_if_each_has_finite_values_or_allowed_nans(rows: list[Any]) -> None:
    for always in (True, False):
        values = {"rate": np.float32(0), "a": np.float32(0), "b": np.float32(0), "n": np.int32(7)}
        optional = ["a", "b"] if always else list(values)
        words = np.concatenate([pack_row(values, optional, row, always=always) for row in rows])
        found = unpack(words)
        clean = all(
            one and all(math.isfinite(x) or (tag == "rate" and x != x) for tag, x in one.items())
            for one in found
        )
        if always or not clean:  # integers that are optional are not counted as values
            assert are_clean(words, lambda tag: tag == "rate") == clean
        tags, numbers = as_numbers(words)
        expected = [[float(one.get(tag, math.nan)) for tag in tags] for one in found]
        np.testing.assert_array_equal(numbers, expected)


def pack_row(values: Any, optional: list[str], row: Any, *, always: bool) -> np.ndarray:
    schema = make_schema(Kind.RECORD, values, optional)
    rate, a, b, has_a, has_b = row
    words: list[Any] = header_of(schema)
    for tag, value, there in (("rate", rate, True), ("a", a, has_a), ("b", b, has_b)):
        words.append(np.float32(value).view(np.uint32))
        if tag in optional:
            words.append(np.uint32(there))
    words.append(np.uint32(7))
    if not always:
        words.append(np.uint32(0))
    return np.array([words], np.uint32)


def header_of(schema: Schema) -> list[int]:
    words = [0] * HEADER
    words[Header.SCHEMA], words[Header.VALID] = schema_id(schema), 1
    return words


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_floats_of_other_dtypes_are_left_to_the_check_of_each_value(dtype: str) -> None:
    with x64(True):
        values = {"a": jnp.zeros((), dtype), "b": jnp.float32(1)}
        row = np.asarray(pack(make_schema(Kind.RECORD, values), HEADER_WORDS, values, {}))
    assert not are_clean(row[None], lambda _: True)
    assert as_numbers(row[None])[1].tolist() == [[0.0, 1.0]]
