from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, struct
from flax.core import FrozenDict

from metriplex.errors import LoggingError
from metriplex.run.hparams import flatten_hparams


@dataclass
class Optimizer:
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class Experiment:
    seed: int = 3
    optimizer: Optimizer = field(default_factory=Optimizer)


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


@pytest.mark.parametrize("name", [1, None, "", ("a",)])
def test_a_name_must_be_a_nonempty_string(name: object) -> None:
    with pytest.raises(LoggingError, match="name must be a string"):
        flatten_hparams({"a": {name: 1}})


def test_two_paths_with_one_name_raise() -> None:
    with pytest.raises(LoggingError, match="`a/b`"):
        flatten_hparams({"a/b": 1, "a": {"b": 2}})


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
