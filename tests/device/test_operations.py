"""Count the operations that XLA makes of `on_iteration`, as each costs time in every iteration."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest

from metriplex import MetricsCallback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCALARS = 20
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast"}
"""Instructions that only name memory."""

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z\d-]*)\((.*)$")
BODY = re.compile(r"\bbody=%?([\w.-]+)")

Log = dict[str, Any]


def loop_operations(text: str) -> list[str]:
    """Return the operations in the body of the only loop of a compiled program's text."""
    instructions: dict[str, list[tuple[str, str]]] = defaultdict(list)
    computation = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            computation = match[1]
        elif match := INSTRUCTION.match(line):
            instructions[computation].append((match[1], match[2]))
    loops = [rest for every in instructions.values() for name, rest in every if name == "while"]
    (body,) = (match[1] for rest in loops if (match := BODY.search(rest)))
    operations = [name for name, _ in instructions[body] if name not in FREE]
    assert operations
    return operations


def floats(values: jax.Array) -> Log:
    return {f"metric_{index:02d}": values[index] for index in range(SCALARS)}


def mixed(values: jax.Array) -> Log:
    dtypes = [jnp.float32, jnp.int32, jnp.bfloat16, jnp.bool_, jnp.uint8]
    converted = {
        tag: value.astype(dtypes[index % len(dtypes)])
        for index, (tag, value) in enumerate(floats(values).items())
    }
    return converted | {"constant": 1 / 3, "flag": True}


def always(_values: jax.Array) -> bool:
    return True


def sometimes(values: jax.Array) -> jax.Array:
    return values[0] > 3


@pytest.mark.parametrize(
    ("options", "where", "most"),
    [
        ({}, always, 9),
        ({}, sometimes, 9),
        ({"buffer": 100}, always, 10),
        ({"buffer": 100}, sometimes, 11),
        ({"buffer": 100, "transport": "drain"}, always, 6),
    ],
    ids=["unbuffered", "unbuffered-where", "buffered", "buffered-where", "ring"],
)
@pytest.mark.parametrize("make_log", [floats, mixed])
def test_an_iteration_takes_few_operations_whatever_it_logs(
    tmp_path: Path,
    make_log: Callable[[jax.Array], Log],
    options: dict[str, Any],
    where: Callable[[jax.Array], Any],
    most: int,
) -> None:
    with MetricsCallback(log_dir=tmp_path, backends=[], **options) as metrics:

        def iterate(carry: Any, _: None) -> Any:
            state, values = carry
            values = values + 1
            log = make_log(values)
            return (
                metrics.on_iteration(state, training_log=log, where=where(values)),
                values,
            ), None

        def program(start: Any) -> Any:
            return jax.lax.scan(iterate, start, length=50)[0]

        start = metrics.init(4), jnp.zeros(SCALARS)
        text = jax.jit(program).lower(start).compile().as_text()
    operations = loop_operations(text or "")
    own = 1  # the sum
    assert len(operations) - own <= most, operations
