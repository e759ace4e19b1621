"""Reading the learning rate from an optimizer state.

An optimizer state is a tree. The search matches the names of fields that optax uses, not classes:
so it reads the states of every optax release, copies as dictionaries (checkpoints, `nnx.state`) and
train states that hold an optimizer state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeAlias, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

TAG: Final = "train/learning_rate"
"""Tag of a single rate, and prefix of the tags of several rates."""

GivenRate: TypeAlias = "float | jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike]"
"""A constant rate or an optax schedule, a function of the number of updates applied before."""

_MAX_DEPTH: Final = 100
_MAX_NODES: Final = 50_000
_LEAVES: Final = (jax.Array, np.ndarray, np.generic, bool, int, float, complex, str, bytes)
_OPAQUE: Final = (*_LEAVES, type(None), type, ModuleType)
# SAM's adversarial step is not a step of training; the others hold no optimizer state.
_NOT_SEARCHED: Final = frozenset(
    {"adv_state", "apply_fn", "hyperparams", "hyperparams_states", "model", "params", "tx"}
)
_PLATEAU: Final = frozenset({"plateau_count", "scale"})
_LINE_SEARCH: Final = frozenset({"grad", "info", "learning_rate", "value"})


def learning_rates(opt_state: object, given: GivenRate | None = None) -> dict[str, jax.Array]:
    """Return the learning rate that the last applied update used, by tag.

    The function is pure and traceable. It changes nothing and never raises, whatever `opt_state`
    is. Before the first update, the value is the rate that the first update will use.

    - The rate is the `learning_rate` that `optax.inject_hyperparams` stores, anywhere in the state.
      If injections are nested, the innermost one counts: only that one scales the update.
    - Several rates (groups of `optax.partition`, several optimizers in one dictionary, tuple or
      dataclass) have one tag each, `train/learning_rate/<label>`. The label is the part of the path
      that distinguishes the rates: the group's label, the dictionary's key, the field's name or the
      position.
    - `optax.contrib.reduce_on_plateau` and line searches multiply the rate of their chain. A line
      search alone is the rate.

    Args:
        opt_state: An optax state, or a container of optax states: a tuple, dictionary or dataclass,
            a train state of flax or equinox.
        given: Rate or schedule that is used if the state holds no rate. A schedule is evaluated at
            the number of updates applied before the last one, as by `optax.inject_hyperparams`.
            That number is the `count` in the state, so mini-steps of `optax.MultiSteps` don't
            count. If the state has several counts, the largest is used.

    Returns:
        Tag to scalar of shape `[]`: float32, or the floating dtype that the state holds. NaN if the
        rate is unknown or not one number. Never empty.
    """
    try:
        search = _Search()
        reading = search.read(opt_state)
        rates = _tagged(reading)
        if not any(rate is not None for rate in rates.values()):
            rate = _substitute(given, search, reading)
            rates = rates if rates and rate is None else {TAG: rate}
        return {tag: _unknown() if rate is None else rate for tag, rate in rates.items()}
    except Exception:  # noqa: BLE001 - training must survive any object that is given as a state
        return {TAG: _unknown()}


def explain_unknown(opt_state: object, given: GivenRate | None = None) -> str:
    """Return the message that explains why `learning_rates` returns NaN. Never raise.

    It has the reason, the classes found in the state, and how to fix it. It is empty if every rate
    is known (the value of a known rate may still be NaN).
    """
    try:
        search = _Search()
        reading = search.read(opt_state)
        tagged = _tagged(reading)
        unreadable = [tag for tag, rate in tagged.items() if rate is None]
        some_known = len(unreadable) < len(tagged)
        if some_known and not unreadable:
            return ""
        if not some_known and _substitute(given, search, reading) is not None:
            return ""
        found = ", ".join(f"`{name}`" for name in list(search.types)[:8]) or "plain values"
        tags = ", ".join(f"`{tag}`" for tag in unreadable) or f"`{TAG}`"
        mend = "Pass `learning_rate=` (a number or the optimizer's schedule) to the callback."
        if some_known:
            why = f"the optimizer state (of {found}) does not hold it as one number"
            mend = "Log what you need of it in `training_log=`."
        elif callable(given) and search.step is None:
            why = f"the optimizer state (of {found}) counts no steps for the schedule"
            mend = "Pass `learning_rate=` (a number) to the callback."
        elif given is not None:
            why = "the callback's `learning_rate=` gives no value that is one number"
        elif opt_state is None:
            why = "no optimizer state was given"
            mend = f"Give `opt_state=` to `on_iteration`. {mend}"
        elif unreadable:
            why = f"the optimizer state (of {found}) does not hold it as one number"
        else:
            why = f"the optimizer state (of {found}) does not hold it"
    except Exception as error:  # noqa: BLE001 - a message is not worth an exception
        tags, why = f"`{TAG}`", f"the optimizer state could not be read ({type(error).__name__})"
        mend = "Pass `learning_rate=` (a number) to the callback."
    return f"{tags} is unknown and logged as NaN: {why}. {mend} Training is not affected."


@final
class _Rate(NamedTuple):
    path: tuple[str, ...]
    value: jax.Array | None
    """None if the state holds the rate, but not as one number."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """Rates and factor found in one part of a state.

    Attributes:
        rates: Rates in this part, with the keys that distinguish them.
        factor: Factor of rates outside of this part; `rates` already include it.
        searched: True if a line search made the factor: without a rate, the factor is the rate.
        bare: True if the part is the factor's own state: it scales its neighbours.
    """

    rates: tuple[_Rate, ...] = ()
    factor: jax.Array | None = None
    searched: bool = False
    bare: bool = False

    def __bool__(self) -> bool:
        return bool(self.rates) or self.factor is not None


@final
class _Search:
    """One walk over a state; collects counts and class names.

    Attributes:
        step: Number of applied updates, int32 or the dtype in the state; None if nothing counts
            them.
        types: Names of the classes in the state, in order.
    """

    def __init__(self) -> None:
        self.types: dict[str, None] = {}
        self._counts: dict[int, list[jax.Array]] = {}
        # Holds the nodes too: an id is only unique while its object lives.
        self._seen: dict[int, tuple[object, _Reading]] = {}

    @property
    def step(self) -> jax.Array | None:
        if not self._counts:
            return None
        return functools.reduce(jnp.maximum, self._counts[min(self._counts)])

    def read(self, node: object, depth: int = 0) -> _Reading:
        if isinstance(node, _OPAQUE) or depth > _MAX_DEPTH or len(self._seen) > _MAX_NODES:
            return _Reading()
        if id(node) not in self._seen:
            self._seen[id(node)] = node, _Reading()  # ends a cycle
            self._seen[id(node)] = node, self._read_container(node, depth)
        return self._seen[id(node)][1]

    def _read_container(self, node: object, depth: int) -> _Reading:
        if type(node).__module__ != "builtins":
            self.types.setdefault(type(node).__name__)
        children = _children(node)
        fields = {_text(key): child for key, child in children}
        self._count(node, fields)
        if fields.keys() >= _PLATEAU:
            return _Reading(factor=_scalar(fields["scale"]), bare=True)
        if fields.keys() >= _LINE_SEARCH:
            return _Reading(factor=_scalar(fields["learning_rate"]), searched=True, bare=True)
        inner = _merged(
            [
                (_text(key), self.read(child, depth + 1))
                for key, child in children
                if _text(key) not in _NOT_SEARCHED
            ]
        )
        if "hyperparams" in fields and not inner.rates:
            held = {_text(key): value for key, value in _children(fields["hyperparams"])}
            if "learning_rate" in held:
                rate = _scaled(_scalar(held["learning_rate"]), inner.factor)
                return _Reading((_Rate((), rate),), inner.factor)
        return inner

    def _count(self, node: object, fields: dict[str, Any]) -> None:
        """Store the number of updates that a node counts, by its rank; 0 is the most reliable."""
        if fields.keys() == {"count"}:  # `ScaleByScheduleState`: counts for the schedule itself
            rank, count = 0, _scalar(fields["count"], jnp.integer)
        elif "count" in fields and not fields.keys() & {"plateau_count", "grad_acc"}:
            rank, count = 1, _scalar(fields["count"], jnp.integer)
        elif fields.keys() >= {"gradient_step", "mini_step"}:
            rank, count = 2, _scalar(fields["gradient_step"], jnp.integer)
        elif fields.keys() >= {"step_count", "max_lr"}:  # schedule-free counts from 1
            rank, count = 2, _scalar(fields["step_count"], jnp.integer)
            count = None if count is None else count - 1
        elif "t" in fields and fields.keys() & {"n", "m"}:  # Adan and simplified AdEMAMix
            rank, count = 2, _scalar(fields["t"], jnp.integer)
        elif "step" in fields and "opt_state" in fields and getattr(node, "tx", None) is not None:
            rank, count = 3, _scalar(fields["step"], jnp.integer)  # flax's train states
        else:
            return
        if count is not None:
            self._counts.setdefault(rank, []).append(count)


def _merged(parts: list[tuple[str, _Reading]]) -> _Reading:
    """Join the readings of a node's children; keys label rates if several children hold rates."""
    factor = functools.reduce(_product, (part.factor for _, part in parts if part.bare), None)
    searched = any(part.searched for _, part in parts if part.bare)
    parts = [(key, part) for key, part in parts if part and not part.bare]
    holders = [(key, part) for key, part in parts if part.rates]
    rates = tuple(
        _Rate(rate.path if len(holders) == 1 else (key, *rate.path), _scaled(rate.value, factor))
        for key, part in holders
        for rate in part.rates
    )
    parts = holders or parts
    if len(parts) == 1:
        factor = _product(factor, parts[0][1].factor)
        searched = searched or parts[0][1].searched
    elif any(part.factor is not None for _, part in parts):
        factor, searched = _unknown(), False  # one factor for each group of parameters
    return _Reading(rates, factor, searched)


def _tagged(reading: _Reading) -> dict[str, jax.Array | None]:
    tags: dict[str, jax.Array | None] = {}
    for path, value in reading.rates:
        tag = base = "/".join((TAG, *path))
        copies = 1
        while tag in tags:
            copies += 1
            tag = f"{base}_{copies}"
        tags[tag] = value
    return tags


def _children(node: object) -> list[tuple[Hashable, Any]]:
    """Return the children of a container, a pytree or not, with their keys. Never raise."""
    try:
        if isinstance(node, _OPAQUE):
            return []
        names = getattr(node, "_fields", None)
        if isinstance(node, tuple) and isinstance(names, tuple):
            return list(zip(names, node, strict=True))
        if isinstance(node, Mapping):
            # Sorted as jit sorts them, so that equal labels get the same numbers everywhere.
            return sorted(node.items(), key=lambda item: _text(item[0]))
        if isinstance(node, (tuple, list)):
            return list(enumerate(node))
        if dataclasses.is_dataclass(node):
            return [
                (field.name, getattr(node, field.name, None)) for field in dataclasses.fields(node)
            ]
        leaves = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda part: part is not node)
        if leaves and leaves[0][1] is node:
            return list(vars(node).items())
        return [(jax.tree_util.keystr(path, simple=True), child) for path, child in leaves]
    except Exception:  # noqa: BLE001 - a container that can't be opened holds nothing to be read
        return []


def _text(key: object) -> str:
    try:
        return str(key) or repr(key)
    except Exception:  # noqa: BLE001 - a label may be any hashable, also one that can't be printed
        return type(key).__name__


def _scalar(value: object, kind: type[Any] = jnp.floating) -> jax.Array | None:
    """Return the number that a leaf, or a variable around a leaf, holds; None if not one number.

    The kind is `jnp.floating`, which converts integers to float32, or `jnp.integer`.
    """
    for _ in range(4):
        if isinstance(value, _LEAVES):
            break
        children = _children(value)
        value = children[0][1] if len(children) == 1 and not isinstance(value, Mapping) else None
    if not isinstance(value, _LEAVES) or isinstance(value, (bool, str, bytes)):
        return None
    try:
        # A deleted (donated) array has no value, though it still has a shape and a dtype.
        if isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_deleted():
            return None
        array = jnp.asarray(value, jnp.float32 if type(value) is float else None)
    except Exception:  # noqa: BLE001 - an array that jax refuses, of strings or objects
        return None
    if array.size == 1 and jnp.issubdtype(array.dtype, kind):
        return jax.lax.convert_element_type(array.reshape(()), array.dtype)
    if array.size == 1 and kind is jnp.floating and jnp.issubdtype(array.dtype, jnp.integer):
        return array.reshape(()).astype(jnp.float32)
    return None


def _substitute(given: GivenRate | None, search: _Search, reading: _Reading) -> jax.Array | None:
    """Return the rate for a state that holds none: the given one, or that of a line search."""
    if given is None:
        return reading.factor if reading.searched else None
    return _scaled(_evaluate(given, search.step), reading.factor)


def _evaluate(given: GivenRate, step: jax.Array | None) -> jax.Array | None:
    """Return a given rate as a scalar; None if it is not one number.

    Without a step count, only the rate of a constant schedule is known.
    """
    if not callable(given):
        return _scalar(given)
    try:
        if step is not None:
            return _scalar(given(jnp.maximum(step, 1) - 1))
        constants: list[object] = []

        def keep_constant(count: jax.Array) -> None:  # no tracer leaves the function
            value = given(count)
            if not isinstance(value, Tracer):
                constants.append(value)

        jax.eval_shape(keep_constant, jnp.int32(0))
        return _scalar(constants[0]) if constants else None
    except Exception:  # noqa: BLE001 - a schedule that can't be evaluated gives no rate
        return None


def _scaled(rate: jax.Array | None, factor: jax.Array | None) -> jax.Array | None:
    return rate if rate is None or factor is None else (rate * factor).astype(rate.dtype)


def _product(a: jax.Array | None, b: jax.Array | None) -> jax.Array | None:
    return b if a is None else _scaled(a, b)


def _unknown() -> jax.Array:
    return jnp.full((), jnp.nan, jnp.float32)
