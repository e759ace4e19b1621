from __future__ import annotations

import argparse
import enum
from collections import namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, struct
from flax.core import FrozenDict
from hypothesis import example, given
from hypothesis import strategies as st

from metriplex.run.hparams import flatten_hparams


@dataclass
class Optimizer:
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class Experiment:
    seed: int = 3
    optimizer: Optimizer = field(default_factory=Optimizer)


class Colour(str, enum.Enum):  # noqa: UP042 - what strangers write
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Plain(enum.Enum):
    ON = "on"


class Secret(enum.Enum):
    VALUE = "hunter2"


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Odd(int):
    def __int__(self) -> int:
        raise RuntimeError("no number")

    __index__ = __int__

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_names_are_joined_and_values_kept() -> None:
    assert flatten_hparams({"env": "CartPole", "ppo": {"clip": 0.2, "norm": True, "n": 4}}) == {
        "env": "CartPole",
        "ppo/clip": 0.2,
        "ppo/norm": True,
        "ppo/n": 4,
    }


def test_dataclasses_are_flattened() -> None:
    assert flatten_hparams({"run": Experiment()}) == {
        "run/seed": 3,
        "run/optimizer/learning_rate": 3e-4,
        "run/optimizer/betas": "(0.9, 0.999)",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(2**40), 2**40),
        (np.array([7]), 7),
        (jnp.float32(0.25), 0.25),
        (np.bool_(True), True),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        (jnp.tanh, "tanh"),
        (np.zeros((2, 3), np.float32), "float32[2, 3]"),
        (jnp.zeros(0, jnp.int32), "int32[0]"),
        (jax.random.key(0), "key<fry>[]"),
        (Optimizer, "Optimizer"),
    ],
)
def test_values_other_than_numbers_become_text(value: object, expected: object) -> None:
    (flat,) = flatten_hparams({"x": value}).values()
    assert flat == expected
    assert type(flat) is type(expected)


def test_the_callers_dictionary_is_not_changed() -> None:
    hparams = {"a": {"b": 1}}
    flatten_hparams(hparams)
    assert hparams == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("key", "name"),
    [(1, "1"), (None, "None"), ("", ""), (("a",), "('a',)"), (Colour.RED, "red"), (0.5, "0.5")],
)
def test_any_key_becomes_a_name(key: object, name: str) -> None:
    assert flatten_hparams({"a": {key: 1}}) == {f"a/{name}": 1}


def test_a_name_is_never_empty() -> None:
    assert flatten_hparams({"": 1}) == {"hparams": 1}


def test_values_of_one_name_are_numbered() -> None:
    hparams = {"a/b": 1, "a": {"b": 2}, "a/b_2": 3, 1: "one", "1": "two"}
    assert flatten_hparams(hparams) == {
        "a/b": 1,
        "a/b_2": 2,
        "a/b_2_2": 3,
        "1": "one",
        "1_2": "two",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Level.LOW, 1),
        (Flags.A | Flags.B, 3),
        (Plain.ON, "Plain.ON"),
        (Loud("ha"), "ha"),
        (Odd(3), 3),
        (np.float64(0.1), 0.1),
        (np.bool_(True), True),
        (np.str_("adam"), "adam"),
        (np.array("adam"), "adam"),
        (Path("data/x"), "data/x"),
        (b"raw", "b'raw'"),
        (1j, "1j"),
        (Decimal("0.1"), "Decimal('0.1')"),
        (range(3), "range(0, 3)"),
        ("x" * 2000, "x" * 2000),
        ({1, 2}, "{1, 2}"),
        (Broken(), "<Broken>"),
        (object, "object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_any_type_becomes_one_of_exactly_four(value: object, expected: object) -> None:
    (flat,) = flatten_hparams({"x": value}).values()
    assert flat == expected
    assert type(flat) is type(expected)


def test_namespaces_models_and_lists_of_containers_are_flattened() -> None:
    class Model:  # as pydantic makes them
        model_fields: ClassVar = {"lr": object(), "net": object()}

        def __init__(self) -> None:
            self.lr, self.net = 0.1, SimpleNamespace(width=64)

    assert flatten_hparams(Model()) == {"lr": 0.1, "net/width": 64}
    assert flatten_hparams({"layers": [{"n": 1}, {"n": 2}], "sizes": [1, 2]}) == {
        "layers/0/n": 1,
        "layers/1/n": 2,
        "sizes": "[1, 2]",
    }


def test_a_container_that_holds_itself_ends() -> None:
    tree: dict[str, Any] = {"lr": 0.1}
    tree["self"] = tree
    tree["many"] = [tree, {"up": tree}]
    assert flatten_hparams(tree) == {
        "lr": 0.1,
        "self": "...",
        "many/0": "...",
        "many/1/up": "...",
    }


def test_a_long_repr_is_shortened() -> None:
    (text,) = flatten_hparams({"x": set(range(1000))}).values()
    assert isinstance(text, str)
    assert len(text) == 503
    assert text.endswith("...")


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.decimals(),
    st.dates(),
    st.sampled_from([Colour.RED, Level.LOW, Plain.ON, len, int]),
    st.builds(np.float32, st.floats(width=32)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.none()), inner),
        st.builds(lambda value: SimpleNamespace(value=value), inner),
    ),
    max_leaves=12,
)


@given(tree=st.dictionaries(st.one_of(st.text(max_size=3), st.booleans()), TREES))
@example(tree={"KEY": None})  # None is no secret, and its text, given as a text, is one
def test_any_object_is_flattened_to_exact_types(tree: dict[Any, Any]) -> None:
    flat = flatten_hparams(tree)
    assert all(type(name) is str and name for name in flat)
    assert {type(value) for value in flat.values()} <= {bool, int, float, str}
    again = flatten_hparams(flat, mask_secrets=False)
    assert list(map(repr, again.items())) == list(map(repr, flat.items()))
    masked = flatten_hparams(flat)
    again = flatten_hparams(masked)
    assert list(map(repr, again.items())) == list(map(repr, masked.items()))


@pytest.mark.parametrize(
    "hparams",
    [
        {"servers": [{"host": "h", "password": "hunter2"}]},
        {"api_key": np.str_("hunter2")},
        {"token": np.array("hunter2")},
        {"tokens": np.array(["hunter2", "x"])},
        {"db": [namedtuple("Db", "token")("hunter2")]},
        {"auth": "hunter2"},
        {"http_auth": SimpleNamespace(user="me", value="hunter2")},
        {"bearer": "hunter2"},
        {"db_pwd": "hunter2"},
        {"passphrase": b"hunter2"},
        {"jwt": "hunter2"},
        {"cookie": {"hunter2"}},
        {"authorization": Loud("hunter2")},
        {"secret": Secret.VALUE},
        {"url": "postgresql://me:hunter2@host/db"},
        {"header": "Bearer hunter2hunter2"},
        {"command": "train --wandb-key=hunter2 --lr=1"},
        {"env": ["WANDB_API_KEY=hunter2"]},
        {"config": '{"api_key": "hunter2", "lr": 1}'},
        {"repr": "{'password': 'my hunter2'}"},
        {"yaml": "lr: 1\npassword: hunter2\n"},
        {"http": "X-Api-Key: hunter2"},
        {"proxy": "Authorization: Basic aHVudGVyMg==hunter2"},
        {"remote": "https://hunter2@host/repository.git"},
        {"page": "https://host/?token=hunter2&page=1"},
        {"quoted": "api_key='my hunter2' lr=1"},
        {"spaced": "token = hunter2"},
        {"redis": "redis://:hunter2@host:1"},
    ],
    ids=lambda hparams: next(iter(hparams)),
)
def test_no_form_of_a_secret_is_stored(hparams: dict[str, Any]) -> None:
    flat = flatten_hparams(hparams)
    assert flat
    assert "hunter2" not in repr(flat)
    assert "***" in repr(flat)


@pytest.mark.parametrize(
    "text",
    [
        *("git@host:repository", "https://host:80/a@b", "s3://bucket/key", "12:30:45", "a key, b"),
        *("lr=1, env=Walker", "{'lr': 1, 'n': [1, 2]}", "monkey: 3", "prng_key=7", "basic net"),
    ],
)
def test_text_without_secrets_is_kept(text: str) -> None:
    assert flatten_hparams({"note": text}) == {"note": text}


@pytest.mark.parametrize("part", ["a", "a.", "a=", "a:", "a ", "://", "key=", "key='", '"', "a-"])
def test_long_text_is_masked_without_recursion_in_linear_time(part: str) -> None:
    """Time that grew as the square would take hours."""
    flat = flatten_hparams({"note": 300_000 * part + " password=hunter2"})
    assert "hunter2" not in str(flat["note"])


@pytest.mark.parametrize(
    "name",
    [
        *("key", "api_key", "apiKey", "WANDB_API_KEY", "access_key_id", "hf-token", "AccessToken"),
        *("password", "dbPasswd", "clientSecret", "aws_credentials"),
    ],
)
def test_secrets_are_masked(name: str) -> None:
    assert flatten_hparams({"a": {name: "s3cret"}}) == {f"a/{name}": "***"}
    assert flatten_hparams({name: ["s3cret", "x"]}) == {name: "***"}
    assert flatten_hparams({name: {"user": "me"}}) == {f"{name}/user": "***"}
    assert flatten_hparams({name: "s3cret"}, mask_secrets=False) == {name: "s3cret"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", 512, 512),
        ("key", np.uint32(7), 7),
        ("api_key", None, "None"),
        ("api_key", "", ""),
        ("layer_keys", (1, 2), "(1, 2)"),
        ("prng_key", "threefry", "threefry"),
        ("obs_key", "pixels", "pixels"),
        ("tokenizer", "gpt", "gpt"),
        ("env", "MonkeyBars", "MonkeyBars"),
    ],
)
def test_names_that_only_resemble_secrets_are_not_masked(
    name: str, value: object, expected: object
) -> None:
    assert flatten_hparams({name: value}) == {name: expected}


class Point(NamedTuple):
    x: int
    y: float


def test_containers_with_named_values_are_flattened() -> None:
    class Bag:  # as `ml_collections.ConfigDict`, which is no mapping
        def keys(self) -> list[str]:
            return ["z"]

        def items(self) -> list[tuple[str, int]]:
            return [("z", 3)]

    class Module(eqx.Module):
        weights: jax.Array
        width: int = eqx.field(static=True)

    @struct.dataclass
    class Config:
        lr: float = 0.5

    hparams = {
        "args": argparse.Namespace(seed=1),
        "point": Point(1, 2.0),
        "bag": Bag(),
        "module": Module(jnp.zeros((8, 4)), 4),
        "flax": Config(),
        "frozen": FrozenDict({"a": {"b": 1}}),
        "small": np.array([1, 2]),
    }
    assert flatten_hparams(hparams) == {
        "args/seed": 1,
        "point/x": 1,
        "point/y": 2.0,
        "bag/z": 3,
        "module/weights": "float32[8, 4]",
        "module/width": 4,
        "flax/lr": 0.5,
        "frozen/a/b": 1,
        "small": "[1 2]",
    }
    assert flatten_hparams(argparse.Namespace(seed=1)) == {"seed": 1}


def test_modules_of_equinox_and_flax_and_optimizers_are_flattened() -> None:
    layer = eqx.nn.Linear(2, 30, key=jax.random.key(0))
    flat = flatten_hparams(
        {"eqx": layer, "layers": [layer], "flax": linen.Dense(4), "optimizer": optax.adam(1e-3)}
    )
    assert flat["eqx/weight"] == "float32[30, 2]"
    assert flat["eqx/in_features"] == flat["layers/0/in_features"] == 2
    assert flat["flax/features"] == 4
    assert flat["flax/use_bias"] is True
    assert flat["optimizer/update"] == "chain.<locals>.update_fn"
    assert not any(" at 0x" in str(value) for name, value in flat.items() if "optimizer" in name)
