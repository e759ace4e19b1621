"""What a training loop touches: `MetricsCallback`, and the same under the name of the pattern."""

from __future__ import annotations

import functools
import logging
import operator
import time
import uuid
import weakref
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metriplex import bridge, shutdown
from metriplex import state as device
from metriplex.arguments import check_count, join_ends, make_config
from metriplex.errors import (
    ClosedError,
    MetriplexError,
    NonFiniteError,
)
from metriplex.hparams import flatten_hparams
from metriplex.learning_rate import explain_unknown
from metriplex.naming import create_directory, run_name
from metriplex.plugins import create_backends
from metriplex.records import Delivery, RunInfo, Text, Video
from metriplex.run import NonFinite, Run
from metriplex.tracing import is_tracing, require_host
from metriplex.training_log import flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from metriplex.episodes import AxisName
    from metriplex.state import Config, MetricsState

logger = logging.getLogger("metriplex")

CLOSE_TIMEOUT = 30.0

_runs: weakref.WeakValueDictionary[int, Run] = weakref.WeakValueDictionary()


@final
@jax.tree_util.register_pytree_with_keys_class
class MetricsCallback:
    """Logs episode statistics, the training log and the learning rate from inside compiled code.

    Construct it outside of compiled functions, pass it to them as an argument (it is a pytree with
    one int32 leaf, so one compiled program serves any number of runs) or close over it, and call:

        state = metrics.init(num_envs)                          # once
        state = metrics.on_step(state, reward, done)            # each step, or each rollout
        state = metrics.on_iteration(state, training_log=log)   # each iteration: one record

    It is a context manager; leaving the `with` block closes the run.

    Args:
        name: The run's name and its directory under `log_dir`. None: `{policy.name}_{env.name}_
            {time}`, `{env.name}_{time}`, `{policy.name}_{time}` or `training_{time}`, by what is
            given. A directory that exists already is not used again: `_2`, `_3`, ... is appended.
        env: The environment; only its name is used.
        policy: The policy; only its name is used.
        alpha: Weight of the newest episode in the moving averages, in (0, 1].
        log_dir: Where the run's directory is made.
        backends: What the run is logged to: names of installed backends, `{name: options}`,
            backend objects, or a list of these. None: TensorBoard.
        hparams: Hyper-parameters, logged once; may be nested.
        total_steps: Environment steps that the training will take, if known: for progress bars.
        episode_stats: Also log `episode/count` and minimum, maximum and mean of return and length
            of the episodes that finished since the last record.
        reduce: What to do with arrays in `training_log`: None makes them an error, `"mean"`
            averages them.
        learning_rate: A rate, or an optax schedule that is evaluated at the optimizer state's own
            step count: used where the optimizer state holds no rate.
        log_every: Iterations between two records.
        buffer: Rows kept on the device before they are sent together; 0 sends each at once. What
            is left is sent by `on_training_end`.
        buffer_width: Words (of 32 bits) that a buffered row may take.
        axis_name: Mapped axes (`shard_map`, `pmap`, `vmap(axis_name=)`) over which the
            environments are spread: values are made global over them. None: all axes of the
            `shard_map` or `pmap` that the program runs in, unless `init` is given lanes. `()`:
            none; every device is then a lane.
        nonfinite: What a NaN or an infinity does. It never reaches a backend, is logged at once,
            and `"error"` raises `NonFiniteError` at the next `flush`, `close` or `with` exit;
            `"abort"` stops the compiled program too; `"warn"` leaves it at the log line. `"keep"`
            sends it to the backends as it is.
        queue_size: Records that may wait for one backend before newer ones are dropped.

    Raises:
        ConfigurationError: An argument is not usable, or `log_dir` can't be written.
        PluginError: A backend is not installed, or broken.
        MetriplexError: It is constructed inside a compiled function.
    """

    __slots__ = ("__weakref__", "_config", "_handle", "_run")

    _handle: Any
    _config: Config
    _run: Run | None

    def __init__(
        self,
        name: str | None = None,
        env: object = None,
        policy: object = None,
        alpha: float = 0.9,
        log_dir: str = "logs",
        *,
        backends: object = None,
        hparams: Mapping[str, Any] | None = None,
        total_steps: int | None = None,
        episode_stats: bool = False,
        reduce: Literal["mean"] | None = None,
        learning_rate: float | Callable[..., Any] | None = None,
        log_every: int = 1,
        buffer: int = 0,
        buffer_width: int = 64,
        axis_name: AxisName | None = None,
        nonfinite: NonFinite = "error",
        queue_size: int = 65_536,
    ) -> None:
        require_host("MetricsCallback")
        config = make_config(
            alpha=alpha,
            episode_stats=episode_stats,
            reduce=reduce,
            learning_rate=learning_rate,
            log_every=log_every,
            buffer=buffer,
            buffer_width=buffer_width,
            axis_name=axis_name,
            nonfinite=nonfinite,
        )
        check_count("queue_size", queue_size, least=1)
        if total_steps is not None:
            check_count("total_steps", total_steps, least=1)
        flat = flatten_hparams(hparams or {})
        plugins = create_backends(backends)
        now = time.time()
        directory = create_directory(
            log_dir, run_name(name, env, policy, datetime.fromtimestamp(now))
        )
        info = RunInfo(uuid.uuid4().hex, directory.name, directory, now, total_steps)
        self._config = config
        self._run = Run(info, plugins, nonfinite=nonfinite, queue_size=queue_size)
        handle = bridge.register(self._run)
        self._handle = np.int32(handle)
        _runs[handle] = self._run
        shutdown.watch(handle, functools.partial(_close, handle, self._run))
        if flat:
            self._run.log_hparams(flat)

    # ---- on the device --------------------------------------------------------------------------

    def init(self, num_envs: int, *, lane: jax.Array | int | None = None) -> MetricsState:
        """The state that the training loop carries; its shapes never change.

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
        return device.init(self._config, num_envs, lane)

    def on_training_start(self, state: MetricsState) -> MetricsState:
        """Marks the start of a training program; measures its first steps a second from here."""
        self._check_open()
        return device.on_training_start(self._config, self._traced_handle(), state)

    def on_step(
        self,
        state: MetricsState,
        reward: jax.typing.ArrayLike,
        done: jax.typing.ArrayLike | None = None,
        *,
        terminated: jax.typing.ArrayLike | None = None,
        truncated: jax.typing.ArrayLike | None = None,
    ) -> MetricsState:
        """Takes in one step of all environments, or a whole rollout.

        Args:
            state: The state.
            reward: `[num_envs]` for a step, `[time, num_envs]` for a rollout.
            done: Whether the step ended an episode; of the shape of `reward`.
            terminated: Instead of `done`: whether the environment's own end was reached, ...
            truncated: ... or the episode was cut off. An episode ends by either.

        Returns:
            The new state.

        Raises:
            LoggingError: At trace time, if shapes or dtypes don't fit, or if neither or both of
                `done` and `terminated`/`truncated` are given.
        """
        self._check_open()
        return device.on_step(self._config, state, reward, join_ends(done, terminated, truncated))

    def on_iteration(
        self,
        state: MetricsState,
        *,
        training_log: Any = None,
        opt_state: Any = None,
        iteration: jax.typing.ArrayLike | None = None,
        policy: Any = None,  # noqa: ARG002 - part of the pattern; logging scalars needs no policy
        key: jax.Array | None = None,
        where: jax.typing.ArrayLike = True,
    ) -> MetricsState:
        """Logs one record: episode averages, every scalar of the training log, the learning rate.

        Its step is the number of environment steps taken so far, over all environments.

        Args:
            state: The state.
            training_log: Scalars by name, in dictionaries that may be nested (or anything that is
                a pytree with names); logged as `train/...`, joined by `/`.
            opt_state: The optax state; gives `train/learning_rate`, NaN if the rate is unknown.
            iteration: Index of the iteration, an integer; None counts from 0.
            policy: The current policy, which training libraries pass; not used for scalars.
            key: A PRNG key; tells vmapped lanes apart that differ in nothing else that is logged.
            where: Whether to log at all: a bool `[]`, as data, so that under `vmap` each lane
                decides for itself (inside `lax.cond` a vmapped predicate fires for every lane).

        Returns:
            The new state.

        Raises:
            LoggingError: At trace time, naming the tag, if something can't be logged.
        """
        self._check_open()
        if opt_state is not None:
            _explain_unknown_rate(opt_state, self._config.learning_rate)
        return device.on_iteration(
            self._config,
            self._traced_handle(),
            state,
            training_log=training_log,
            opt_state=opt_state,
            iteration=iteration,
            key=key,
            where=where if isinstance(where, bool) else jnp.asarray(where, bool),
        )

    def on_training_end(self, state: MetricsState) -> MetricsState:
        """Sends what is still buffered on the device, and marks the end of the program."""
        self._check_open()
        return device.on_training_end(self._config, self._traced_handle(), state)

    def log(self, step: jax.typing.ArrayLike, values: Mapping[str, Any]) -> None:
        """Logs scalars at a step of the caller's own: from a Python loop, or inside compiled code.

        Args:
            step: Environment steps taken so far, or whatever the x axis is; not negative.
            values: Scalars by tag; may be nested, joined by `/`.

        Raises:
            LoggingError: A value can't be logged, or the step is no integer.
            ClosedError: The run is closed.
        """
        self._check_open()
        flat = flatten(values, prefix="", reduce=self._config.reduce)
        if is_tracing():
            device.log(self._traced_handle(), step, flat)
        else:
            scalars = {tag: np.asarray(value).item() for tag, value in flat.items()}
            self.run.log_scalars(operator.index(np.asarray(step).item()), scalars)

    # ---- on the host ----------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """The host side of the run: `run.info` has its name and directory.

        Raises:
            MetriplexError: Inside a compiled function, where the run is not known.
            ClosedError: The run was closed and is gone.
        """
        if self._run is not None:
            return self._run
        if isinstance(self._handle, Tracer):
            raise MetriplexError(
                "a method of `MetricsCallback` that belongs to the host was called inside a "
                "compiled function: call it outside (inside, call `on_step`, `on_iteration`, "
                "`log`)"
            )
        run = _runs.get(int(self._handle))
        if run is None:
            raise ClosedError(
                f"the run with handle {int(self._handle)} is closed: construct a new callback"
            )
        return run

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.run.info.directory

    def log_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Logs hyper-parameters; nested names are joined by `/`."""
        self.run.log_hparams(flatten_hparams(hparams))

    def log_text(self, tag: str, text: str, *, step: int = 0) -> None:
        """Logs a piece of text, Markdown where the backend shows it."""
        self.run.log_text(Text(step, tag, text, wall_time=time.time()))

    def log_video(self, tag: str, frames: np.ndarray, *, fps: float, step: int = 0) -> None:
        """Logs a clip.

        Args:
            tag: Its name.
            frames: uint8 `[time, height, width, 3]`.
            fps: Frames a second.
            step: Environment steps taken so far.
        """
        self.run.log_video(Video(step, tag, np.asarray(frames), fps, wall_time=time.time()))

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Waits until what this thread's programs log has reached every backend, and is durable.

        Args:
            timeout: Seconds after which slow backends are no longer waited for.

        Raises:
            NonFiniteError: Values were rejected since the last `flush`.
            ClosedError: The run is closed.
        """
        run = self.run
        bridge.barrier()
        run.release()
        run.flush(timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Waits for this thread's programs, delivers everything, and closes the backends.

        Calling it again does nothing. A thread whose programs log has to wait for them itself
        (`jax.effects_barrier`), if it isn't the one that closes.

        Args:
            timeout: Seconds after which a backend that is still busy is given up; how many records
                it missed is logged, and told by `deliveries`.

        Raises:
            NonFiniteError: Values were rejected since the last `flush`.
            Exception: What a failed program of this thread raises.
        """
        _close(int(self._handle), self.run, "finished", running=False, timeout=timeout)

    def deliveries(self) -> tuple[Delivery, ...]:
        """For each backend, how many records it was given and how many it missed."""
        return self.run.deliveries()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interrupted = _is_interrupt(error)
        status = "interrupted" if interrupted else "finished" if error is None else "failed"
        try:
            _close(int(self._handle), self.run, status, running=False)
        except NonFiniteError as rejected:
            if error is None or bridge.ABORTED in str(error):
                raise rejected from error
            logger.error("%s", rejected)  # noqa: TRY400 - the program's own error is the one to show
        except Exception:
            if error is None:
                raise
        if interrupted and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error

    # ---- as a pytree ----------------------------------------------------------------------------

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any]], Config]:
        """The run handle is the only leaf; the configuration is static."""
        return ((jax.tree_util.GetAttrKey("handle"), self._handle),), self._config

    def tree_flatten(self) -> tuple[tuple[Any], Config]:
        """As `tree_flatten_with_keys`, without keys."""
        return (self._handle,), self._config

    @classmethod
    def tree_unflatten(cls, config: Config, leaves: Sequence[Any]) -> Self:
        """The inverse of `tree_flatten`."""
        self = object.__new__(cls)
        (self._handle,) = leaves
        self._config = config
        self._run = None
        return self

    def __repr__(self) -> str:
        name = "traced" if self._run is None else self._run.info.name
        return f"MetricsCallback({name!r})"

    def _traced_handle(self) -> jax.Array:
        return jnp.asarray(self._handle, jnp.int32)

    def _check_open(self) -> None:
        """Refuses to trace for a run that is known here and closed."""
        if self._run is not None and self._run.closed:
            raise ClosedError(
                f"run `{self._run.info.name}` is closed: construct a new `MetricsCallback` for "
                f"each run, and close it after its program has ended"
            )


def _close(
    handle: int, run: Run, status: str, running: bool, timeout: float = CLOSE_TIMEOUT
) -> None:
    try:
        if not running and not run.closed:
            bridge.barrier()
    finally:
        bridge.drain()
        bridge.unregister(handle, run.info.name)
        shutdown.unwatch(handle)
        run.close(status, timeout)


def _is_interrupt(error: BaseException | None) -> bool:
    """Ctrl-C inside a host function surfaces as an error of the compiled program."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "KeyboardInterrupt" in str(error)
    return isinstance(error, KeyboardInterrupt)


@functools.cache
def _log_once(message: str) -> None:
    logger.warning("%s", message)


def _explain_unknown_rate(opt_state: Any, given: Any) -> None:
    if reason := explain_unknown(opt_state, given):
        _log_once(reason)
