"""The scalars of a training log: tags, dtypes, and values that raise."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from metriplex import ConfigurationError, LoggingError
from metriplex.device.training_log import flatten


class Losses(NamedTuple):
    actor: Any
    critic: Any


@dataclass
class Plain:
    loss: Any
    rest: Any = None


@jax.tree_util.register_dataclass
@dataclass
class Registered:
    loss: Any
    name: str = field(metadata={"static": True}, default="ppo")


class Module(eqx.Module):
    loss: Any
    activation: Any = eqx.field(static=True, default=jnp.tanh)


@flax.struct.dataclass
class Struct:
    loss: Any
    name: str = flax.struct.field(pytree_node=False, default="ppo")


@jax.tree_util.register_pytree_with_keys_class
class Keyed:
    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey("loss"), self.loss)], None

    @classmethod
    def tree_unflatten(cls, aux: None, children: Any) -> Keyed:
        return cls(*children)


@jax.tree_util.register_pytree_node_class
class Unkeyed:
    def __init__(self, *children: Any) -> None:
        self.children = children

    def tree_flatten(self) -> Any:
        return self.children, None

    @classmethod
    def tree_unflatten(cls, aux: None, children: Any) -> Unkeyed:
        return cls(*children)


class Convertible:
    """An array behind `__jax_array__`, like a variable of flax."""

    def __jax_array__(self) -> jax.Array:
        return jnp.float32(1.5)


def numbers(scalars: dict[str, Any]) -> dict[str, Any]:
    assert all(value.shape == () for value in scalars.values())
    return {tag: value.item() for tag, value in scalars.items()}


# containers


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ({"loss": 1.5}, {"train/loss": 1.5}),
        ({"a": {"b": {"c": 1}}, "d": 2}, {"train/a/b/c": 1, "train/d": 2}),
        (OrderedDict(z=1, a=2), {"train/z": 1, "train/a": 2}),
        (FrozenDict({"a": {"b": 1}}), {"train/a/b": 1}),
        (UserDict({"a": 1}), {"train/a": 1}),
        (Losses(1, {"a": 2}), {"train/actor": 1, "train/critic/a": 2}),
        ({"x": Losses(1, 2)}, {"train/x/actor": 1, "train/x/critic": 2}),
        ({"x": [1, (2, 3)]}, {"train/x/0": 1, "train/x/1/0": 2, "train/x/1/1": 3}),
        (Plain(1, Plain(2)), {"train/loss": 1, "train/rest/loss": 2}),
        (Registered(1), {"train/loss": 1}),
        (Module(1), {"train/loss": 1}),
        (Struct(1), {"train/loss": 1}),
        (Keyed(1), {"train/loss": 1}),
        ({"x": Unkeyed(1, {"a": 2})}, {"train/x/0": 1, "train/x/1/a": 2}),
        ({"a": None, "b": {"c": None}, "d": 1}, {"train/d": 1}),
        ({"a": {}, "b": []}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_every_container_is_walked(log: object, expected: dict[str, object]) -> None:
    scalars = numbers(flatten(log))
    assert scalars == expected
    assert list(scalars) == list(expected)


def test_the_prefix_comes_first_and_may_be_empty() -> None:
    assert list(flatten({"a": {"b": 1}}, prefix="eval/x")) == ["eval/x/a/b"]
    assert list(flatten({"a": {"b": 1}}, prefix="")) == ["a/b"]


_trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats()),
    lambda children: st.one_of(
        st.dictionaries(st.text("abc", min_size=1), children, max_size=4),
        st.lists(children, max_size=3),
        st.tuples(children, children),
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(log=st.dictionaries(st.text("abc", min_size=1), _trees, max_size=4))
def test_nested_logs_flatten_like_a_naive_recursion(log: dict[str, Any]) -> None:
    def naive(value: Any, tag: str) -> dict[str, Any]:
        if value is None:
            return {}
        if isinstance(value, dict | list | tuple):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            return {k: v for key, child in pairs for k, v in naive(child, f"{tag}/{key}").items()}
        return {tag: value}

    before = copy.deepcopy(log)
    scalars = numbers(flatten(log))
    expected = naive(log, "train")
    assert list(scalars) == list(expected)
    # repr tells True from 1, 0.0 from -0.0, and NaN equals NaN
    assert [repr(x) for x in scalars.values()] == [repr(x) for x in expected.values()]
    assert repr(log) == repr(before)


# values


@pytest.mark.parametrize(
    ("value", "dtype", "number"),
    [
        (True, np.bool_, True),
        (2**63 - 1, np.int64, 2**63 - 1),
        (-(2**63), np.int64, -(2**63)),
        (0.1, np.float64, 0.1),
        (float("inf"), np.float64, float("inf")),
        (np.float64(0.3), np.float64, 0.3),
        (np.uint64(2**64 - 1), np.uint64, 2**64 - 1),
        (np.float16(0.5), np.float16, 0.5),
        (np.array([[7]], np.int8), np.int8, 7),
        (np.array([0.1], ">f8"), np.float64, 0.1),
        (np.longdouble(0.5), np.float64, 0.5),
    ],
)
def test_constants_keep_all_their_bits(value: object, dtype: type, number: float) -> None:
    scalar = flatten({"x": value})["train/x"]
    assert isinstance(scalar, np.ndarray)
    assert scalar.shape == ()
    assert scalar.dtype == dtype
    assert scalar.dtype.isnative
    assert scalar.item() == number


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool", "float8_e4m3fn", "int4"]
)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_arrays_of_size_one_keep_their_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    scalar = flatten({"x": jnp.ones(shape, dtype)})["train/x"]
    assert isinstance(scalar, jax.Array)
    assert scalar.shape == ()
    assert scalar.dtype == dtype
    assert float(scalar) == 1.0


def test_what_converts_to_an_array_is_one() -> None:
    assert numbers(flatten({"x": Convertible(), "y": np.ma.masked_array([2.5])})) == {
        "train/x": 1.5,
        "train/y": 2.5,
    }


def test_the_mean_is_taken_where_it_is_asked() -> None:
    log = {
        "half": jnp.full((4, 1000), 300.0, jnp.float16),  # a sum in float16 would overflow
        "flags": jnp.array([True, False, False, False]),
        "numpy": np.array([0.1, 0.2]),
        "one": jnp.ones((1,), jnp.int32),
    }
    scalars = flatten(log, reduce="mean")
    assert numbers(scalars) == {
        "train/half": 300.0,
        "train/flags": 0.25,
        "train/numpy": np.mean([0.1, 0.2]),
        "train/one": 1,
    }
    dtypes = [str(scalar.dtype) for scalar in scalars.values()]
    assert dtypes == ["float32", "float32", "float64", "int32"]


# transforms


def test_tracers_pass_jit_scan_and_vmap() -> None:
    def body(carry: jax.Array, x: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        log = {"loss": {"actor": x, "critic": x[None]}, "many": jnp.stack([x, x]), "epsilon": 0.1}
        return carry + x, flatten(log, reduce="mean")

    lanes = jnp.arange(6.0).reshape(2, 3)
    _, scalars = jax.jit(jax.vmap(lambda xs: jax.lax.scan(body, jnp.float32(0), xs)))(lanes)
    for tag in ("train/loss/actor", "train/loss/critic", "train/many"):
        assert scalars[tag].tolist() == lanes.tolist()
    assert scalars["train/epsilon"].shape == (2, 3)


def test_a_shape_is_refused_when_the_program_is_traced() -> None:
    with pytest.raises(LoggingError, match=r"`train/loss` has shape \(2,\), dtype float32"):
        jax.eval_shape(lambda x: flatten({"loss": x}), jnp.ones(2))


# what is refused


@pytest.mark.parametrize(
    ("log", "reduce", "message"),
    [
        (
            {"a": jnp.ones((3, 2))},
            None,
            r"`train/a` has shape \(3, 2\), dtype float32; .* `jnp.mean",
        ),
        ({"a": {"b": np.ones(3)}}, None, r"`train/a/b` has shape \(3,\), dtype float64; "),
        ({"a": jnp.ones(0)}, None, r"`train/a` has shape \(0,\), .* An empty array has no mean"),
        ({"a": np.ones((2, 0))}, "mean", r"`train/a` has shape \(2, 0\), .* no mean: leave it out"),
        ({"a": 1j}, None, "`train/a` is of dtype complex; a logged value must be a real number"),
        ({"a": jnp.complex64(1)}, None, "`train/a` is of dtype complex64; "),
        ({"a": "text"}, None, "`train/a` is of dtype str; "),
        ({"a": b"text"}, None, "`train/a` is of dtype bytes; "),
        ({"a": np.array("text")}, None, "`train/a` is of dtype <U4; "),
        ({"a": [object()]}, None, "`train/a/0` is of dtype object; "),
        ({"a": np.array([None])}, None, "`train/a` is of dtype object; "),
        ({"a": jnp.tanh}, None, "`train/a` is of dtype .*; a logged value must be a real number"),
        ({"a": float}, None, "`train/a` is of dtype type; "),
        ({"a": np.timedelta64(1, "s")}, None, r"`train/a` is of dtype timedelta64\[s\]; "),
        ({"a": np.zeros((), [("x", "f4")])}, None, r"`train/a` is of dtype \[\('x', '<f4'\)\]; "),
        ({"a": jax.random.key(0)}, None, r"`train/a` is of dtype key<.*>; "),
        ({"a": 2**63}, None, "`train/a` is the int 9223372036854775808, which does not fit in 64"),
        (
            {"a": -(2**63) - 1},
            None,
            "`train/a` is the int -9223372036854775809, which does not fit",
        ),
        ({"a": {1: 2}}, None, r"must be strings that are not empty; got 1 \(int\) under `train/a`"),
        ({"": 1}, None, r"must be strings that are not empty; got '' \(str\) under `train`"),
        ({None: 1}, None, r"got None \(NoneType\) under `train`"),
        (
            {"a/b": 1, "a": {"b": 2}},
            None,
            "Two values of the training log have the tag `train/a/b`",
        ),
        (
            {"a": {"0": 1}, "a/0": 1},
            None,
            "have the tag `train/a/0`; a tag names one value. Rename",
        ),
        ([1.0], None, "`training_log` must have names for its values: .*; got list. Give it as"),
        ((1.0,), None, "`training_log` must have names .*; got tuple"),
        (1.0, None, "`training_log` must have names .*; got float"),
        ("loss", None, "`training_log` must have names .*; got str"),
        (np.ones(1), None, "`training_log` must have names .*; got ndarray"),
        (Plain, None, "`training_log` must have names .*; got type"),
    ],
)
def test_what_cannot_be_logged_is_named(log: object, reduce: Any, message: str) -> None:
    with pytest.raises(LoggingError, match=message):
        flatten(log, reduce=reduce)


def test_only_the_mean_reduces() -> None:
    with pytest.raises(ConfigurationError, match="`reduce` must be None or \"mean\"; got 'sum'"):
        flatten({}, reduce="sum")  # ty: ignore[invalid-argument-type] - the point of the test
