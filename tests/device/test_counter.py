"""The 64-bit counter agrees with Python's integers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex import ConfigurationError, LoggingError
from metriplex.device.counter import Counter, add, to_int, zero

_NEAR = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 5 * 10**9, 2**63, 2**64 - 1]
_counts = st.one_of(
    st.sampled_from(_NEAR),
    st.integers(0, 2**64 - 1),
    st.builds(lambda near, by: (near + by) % 2**64, st.sampled_from(_NEAR), st.integers(-3, 3)),
)
_jitted_add = jax.jit(add)


def counter_at(number: int) -> Counter:
    return Counter(low=jnp.uint32(number % 2**32), high=jnp.uint32(number // 2**32))


def count(counter: Counter) -> int:
    assert counter.low.dtype == counter.high.dtype == jnp.uint32
    return to_int(counter.low, counter.high)


def test_a_counter_starts_at_zero_with_buffers_of_its_own() -> None:
    counter = zero()
    assert count(counter) == 0
    assert counter.low.unsafe_buffer_pointer() != counter.high.unsafe_buffer_pointer()


@settings(max_examples=60, deadline=None)
@given(start=_counts, amount=_counts)
def test_python_ints_add_modulo_two_to_the_sixty_four(start: int, amount: int) -> None:
    assert count(add(counter_at(start), amount)) == (start + amount) % 2**64


@settings(max_examples=60, deadline=None)
@given(start=_counts, amount=st.one_of(st.integers(0, 5), st.integers(0, 2**31 - 1)))
def test_traced_int32_amounts_add_exactly(start: int, amount: int) -> None:
    assert count(_jitted_add(counter_at(start), jnp.int32(amount))) == (start + amount) % 2**64


@settings(max_examples=30, deadline=None)
@given(start=_counts, amount=st.integers(2**31, 2**32 - 1))
def test_uint32_amounts_keep_their_upper_half(start: int, amount: int) -> None:
    assert count(_jitted_add(counter_at(start), jnp.uint32(amount))) == (start + amount) % 2**64


@settings(max_examples=20, deadline=None)
@given(start=_counts, amount=st.integers(0, 2**63 - 1))
def test_int64_amounts_add_exactly_under_x64(start: int, amount: int) -> None:
    with jax.enable_x64(True):
        assert count(add(counter_at(start), jnp.int64(amount))) == (start + amount) % 2**64
        assert count(add(counter_at(start), amount)) == (start + amount) % 2**64


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32])
def test_every_integer_dtype_counts(dtype: type) -> None:
    assert count(add(counter_at(2**32 - 1), dtype(100))) == 2**32 + 99


def test_a_scan_passes_five_billion_and_never_goes_back() -> None:
    def step(counter: Counter, amount: jax.Array) -> tuple[Counter, Counter]:
        counter = add(counter, amount)
        return counter, counter

    amounts = jnp.full(50, 100_000_007, jnp.int32)
    last, path = jax.jit(lambda start, xs: jax.lax.scan(step, start, xs))(zero(), amounts)
    counts = [to_int(low, high) for low, high in zip(path.low, path.high, strict=True)]
    assert counts == [100_000_007 * (index + 1) for index in range(50)]
    assert count(last) == 5_000_000_350


def test_lanes_carry_each_on_its_own() -> None:
    counters = jax.vmap(counter_at_words)(jnp.uint32([5, 2**32 - 1]), jnp.uint32([0, 7]))
    counters = jax.vmap(add, in_axes=(0, None))(counters, jnp.int32(1))
    assert [to_int(*words) for words in zip(counters.low, counters.high, strict=True)] == [
        6,
        8 * 2**32,
    ]


def counter_at_words(low: jax.Array, high: jax.Array) -> Counter:
    return Counter(low=low, high=high)


def test_a_numpy_integer_counts_as_a_python_one() -> None:
    assert count(add(zero(), np.int64(5_000_000_000))) == 5_000_000_000


@pytest.mark.parametrize("amount", [-1, 2**64, np.int64(-5)])
def test_amounts_out_of_range_are_refused(amount: int) -> None:
    with pytest.raises(ConfigurationError, match=r"`amount` must be from 0 to 2\*\*64 - 1; got"):
        add(zero(), amount)


@pytest.mark.parametrize("amount", [1.5, True, np.float32(2)])
def test_amounts_that_are_no_integers_are_refused(amount: object) -> None:
    with pytest.raises(LoggingError, match=r"`amount` must be an int .* got dtype (float|bool)"):
        add(zero(), amount)  # ty: ignore[invalid-argument-type] - the point of the test
