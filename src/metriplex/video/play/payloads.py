"""Payloads of a video row: states to draw, or the policy that the host plays a rollout with.

Arrays cross to the host without their pytree structure. The structure stays on the host, under a
number that is part of the arrays' names.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import itertools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np

from metriplex.video.play.policies import Actor, adapt_policy
from metriplex.video.play.rollout import play

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from metriplex.plugins.interfaces import Environment


class Payload(abc.ABC):
    """Make a rollout of the arrays that reach the host."""

    @abc.abstractmethod
    def selected(self, arrays: Sequence[np.ndarray]) -> Iterator[Any]:
        """Yield the selected part of each state, of NumPy arrays, in order of time."""


@final
@dataclass(frozen=True)
class States(Payload):
    """A rollout that the device has played."""

    structure: jax.tree_util.PyTreeDef  # of the part of a state that the renderer selects

    def selected(self, arrays: Sequence[np.ndarray]) -> Iterator[Any]:
        """See `Payload.selected`.

        The arrays are split here, because the drawing process may not know the pytree classes of
        the states: cloudpickle pickles classes of a user's script by value.
        """
        return (jax.tree.unflatten(self.structure, leaves) for leaves in zip(*arrays, strict=True))


@final
@dataclass(frozen=True)
class Play(Payload):
    """A rollout that the host has to play, because the environment can't be traced."""

    env: Environment
    select: Callable[[Any], Any]
    num_steps: int
    policy: Parts  # of the policy and the key
    x64: bool  # True if 64-bit types were enabled while the program was traced
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def selected(self, arrays: Sequence[np.ndarray]) -> Iterator[Any]:
        """See `Payload.selected`; plays during the iteration.

        The policy runs on the CPU, because an accelerator that runs a compiled training would not
        run the policy before the training has ended.
        """
        with self._lock, _on_cpu(), jax.enable_x64(self.x64):
            leaves = [array[0] for array in arrays]
            policy, key = self.policy.join(leaves)
            actor = Actor(adapt_policy(policy).reset, functools.partial(self._act, leaves))
            yield from play(self.env, actor, key, num_steps=self.num_steps, select=self.select)

    @functools.cached_property
    def _act(self) -> Callable[..., tuple[Any, Any]]:
        """Return the policy, compiled once for all videos."""

        @jax.jit
        def act(leaves: Sequence[jax.Array], *arguments: Any) -> tuple[Any, Any]:
            policy, _ = self.policy.join(leaves)
            return adapt_policy(policy).act(*arguments)

        return act


@final
@dataclass(frozen=True)
class Parts:
    """A pytree without its arrays."""

    structure: jax.tree_util.PyTreeDef
    others: tuple[Any, ...]  # leaves that aren't arrays; None in the place of arrays
    keys: tuple[Any, ...]  # implementation of each array of PRNG keys; None for other arrays

    @classmethod
    def split(cls, tree: Any) -> tuple[Parts, list[Any]]:
        """Split a pytree into parts and arrays; PRNG keys become their words."""
        leaves, structure = jax.tree.flatten(tree)
        arrays = [leaf for leaf in leaves if _is_array(leaf)]
        others = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
        keys = tuple(jax.random.key_impl(one) if _is_key(one) else None for one in arrays)
        words = [jax.random.key_data(one) if _is_key(one) else one for one in arrays]
        return cls(structure, others, keys), words

    def join(self, arrays: Sequence[Any]) -> Any:
        """Return the pytree with its arrays."""
        wrapped = iter(
            [
                array if impl is None else jax.random.wrap_key_data(array, impl=impl)
                for array, impl in zip(arrays, self.keys, strict=True)
            ]
        )
        # jax treats None as no leaf, so each None stands for an array.
        leaves = [next(wrapped) if leaf is None else leaf for leaf in self.others]
        return jax.tree.unflatten(self.structure, leaves)


_payloads: dict[int, Payload] = {}
_numbers = itertools.count()


def register(payload: Payload) -> int:
    """Keep a payload and return its number; equal payloads have one number."""
    for number, known in _payloads.items():
        if known == payload:
            return number
    number = next(_numbers)
    _payloads[number] = payload
    return number


def name(number: int, arrays: Sequence[Any]) -> dict[str, Any]:
    """Name the arrays of a payload, so that `find` finds the payload."""
    return {f"{number}/{index}": array for index, array in enumerate(arrays)}


def find(values: Mapping[str, Any]) -> tuple[Payload, list[np.ndarray]]:
    """Return the payload of a row, and its arrays."""
    number = int(next(iter(values)).partition("/")[0])
    return _payloads[number], list(values.values())


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _is_key(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


@contextlib.contextmanager
def _on_cpu() -> Generator[None]:
    try:
        device = jax.devices("cpu")[0]
    except RuntimeError:  # the user has disabled that platform
        yield
    else:
        with jax.default_device(device):
            yield
