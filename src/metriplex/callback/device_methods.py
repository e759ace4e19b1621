"""The methods of a callback that programs trace; they add to the program and return new states."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from metriplex.bridge.strictness import under_own_rules
from metriplex.bridge.tracing import is_tracing
from metriplex.callback.base import CallbackBase
from metriplex.device import state as device
from metriplex.device.checks import check_state, check_where, explain_unknown_rate, join_ends
from metriplex.device.training_log import flatten
from metriplex.errors import LoggingError
from metriplex.validation import check_step

if TYPE_CHECKING:
    import jax

    from metriplex.device.state import MetricsState


class DeviceMethods(CallbackBase, abc.ABC):
    """Methods that a training loop calls, in compiled functions or outside of them."""

    __slots__ = ()

    @under_own_rules
    def init(self, num_envs: int, *, lane: jax.Array | int | None = None) -> MetricsState:
        """Return the state that the training loop carries; its shapes never change.

        Args:
            num_envs: Environments that step together: of one lane, on one device.
            lane: int32 `[]`, the number of this lane, for seeds that are spread over devices by
                `shard_map` or `pmap`. Lanes of `vmap` are numbered without it.

        Returns:
            A pytree of arrays, to be passed to the other methods and replaced by what they return.

        Raises:
            ConfigurationError: `num_envs` is not a positive int.
        """
        self._check_open()
        self._note_program()
        return device.init(self.config, self._execution(), num_envs, lane)

    @under_own_rules
    def on_training_start(self, state: MetricsState) -> MetricsState:
        """Mark the start of a training program, from which its steps a second are measured.

        Call it outside of `jax.checkpoint`, which would repeat it as the start of another program.
        """
        self._check_open()
        check_state(self.config, state)
        if self.config.ring:
            return state
        return device.on_training_start(self.config, self.handle, self._execution(), state)

    @under_own_rules
    def on_step(
        self,
        state: MetricsState,
        reward: jax.typing.ArrayLike,
        done: jax.typing.ArrayLike | None = None,
        *,
        terminated: jax.typing.ArrayLike | None = None,
        truncated: jax.typing.ArrayLike | None = None,
    ) -> MetricsState:
        """Add one step of all environments, or a whole rollout, to the state.

        Args:
            state: The state.
            reward: `[num_envs]` for a step, `[time, num_envs]` for a rollout.
            done: True where the step ended an episode; of the shape of `reward`.
            terminated: Instead of `done`: true where the environment reached a terminal state.
            truncated: Instead of `done`: true where the episode was cut off. Either ends it.

        Returns:
            The new state.

        Raises:
            LoggingError: At trace time, if shapes or dtypes don't fit, or if neither or both of
                `done` and `terminated`/`truncated` are given.
        """
        self._check_open()
        check_state(self.config, state)
        return device.on_step(self.config, state, reward, join_ends(done, terminated, truncated))

    @under_own_rules
    def on_iteration(
        self,
        state: MetricsState,
        *,
        training_log: Any = None,
        opt_state: Any = None,
        iteration: jax.typing.ArrayLike | None = None,
        policy: Any = None,
        key: jax.Array | None = None,
        where: jax.typing.ArrayLike = True,
    ) -> MetricsState:
        """Log one record: episode averages, every scalar of the training log, the learning rate.

        Its step is the number of environment steps taken so far, over all environments.

        Args:
            state: The state.
            training_log: Scalars by name, in dictionaries that may be nested (or anything that is
                a pytree with names); logged as `train/...`, joined by `/`.
            opt_state: The optax state, for `train/learning_rate`; NaN if the rate is unknown.
            iteration: Index of the iteration, an integer; None counts from 0.
            policy: The current policy, for evaluation videos.
            key: A PRNG key; distinguishes vmapped lanes that differ in nothing else that is logged.
            where: True to log: a bool `[]`, as data, so that under `vmap` each lane decides for
                itself (inside `lax.cond` a vmapped predicate logs for every lane).

        Returns:
            The new state.

        Raises:
            LoggingError: At trace time, naming the tag, if a value can't be logged; or if the
                state is not of `init`.
        """
        self._check_open()
        check_state(self.config, state)
        given = self.config.learning_rate
        if opt_state is not None or given is not None:
            explain_unknown_rate(opt_state, given, training_log)
        where = check_where(where)
        if self.video is not None:
            self.video.send(
                self.config,
                self.handle,
                state,
                policy=policy,
                key=key,
                iteration=iteration,
                where=where,
            )
        return device.on_iteration(
            self.config,
            self.handle,
            state,
            training_log=training_log,
            opt_state=opt_state,
            iteration=iteration,
            key=key,
            where=where,
        )

    @under_own_rules
    def on_training_end(self, state: MetricsState) -> MetricsState:
        """Send the rows that are buffered on the device, and mark the end of the program."""
        self._check_open()
        check_state(self.config, state)
        return device.on_training_end(self.config, self.handle, state)

    @overload
    def log(self, step: jax.typing.ArrayLike, values: Mapping[str, Any], /) -> None: ...

    @overload
    def log(self, step: jax.typing.ArrayLike, /, *, values: Mapping[str, Any]) -> None: ...

    @overload
    def log(self, values: Mapping[str, Any], /, *, step: jax.typing.ArrayLike) -> None: ...

    @overload
    def log(self, *, step: jax.typing.ArrayLike, values: Mapping[str, Any]) -> None: ...

    def log(
        self, first: Any = None, second: Any = None, *, step: Any = None, values: Any = None
    ) -> None:
        """Log scalars at a step of the caller's own: from a Python loop, or inside compiled code.

        Call `log(step, values)` or `log(values, step=step)`.

        Outside of compiled code they are logged at once, so before later records of programs that
        still run; call `flush` first if that order matters.

        Args:
            first: The step, or the values.
            second: The other one of both.
            step: Environment steps taken so far, or another x axis; not negative.
            values: Scalars by tag; may be nested, joined by `/`.

        Raises:
            LoggingError: A value can't be logged, or the step is no integer.
            ClosedError: The run is closed.
        """
        self._log(*_step_and_values((first, second), step, values))

    @under_own_rules
    def _log(self, step: Any, values: Any) -> None:
        self._check_open()
        flat = flatten(values, prefix="", reduce=self.config.reduce)
        if is_tracing():
            if self.config.ring:
                raise LoggingError(
                    '`log` inside of compiled code calls the host, which `transport="drain"` never '
                    "does: log it by `on_iteration(training_log=)`, or outside"
                )
            device.log(self.config, self.handle, step, flat)
        else:
            scalars = {tag: np.asarray(value).item() for tag, value in flat.items()}
            self._host_run().run.log_scalars(check_step(step), scalars)


def _step_and_values(positional: tuple[Any, Any], step: Any, values: Any) -> tuple[Any, Any]:
    """Return the step and the values of a call of `log`, whichever comes first."""
    rest = [one for one in positional if one is not None]
    if isinstance(rest[0] if rest else None, Mapping):
        rest.reverse()
    if step is None and rest and not isinstance(rest[0], Mapping):
        step = rest.pop(0)
    if values is None and rest:
        values = rest.pop(0)
    if step is None or values is None or rest:
        raise LoggingError(
            f"`log` takes one step and one mapping of values; got step={step!r}, values={values!r}"
            f"{''.join(f' and {one!r}' for one in rest)}: call `log(step, {{tag: value}})` or "
            "`log({tag: value}, step=step)`"
        )
    return step, values
