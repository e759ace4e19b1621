"""`MetricsCallback`: its arguments and its pytree."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias, final, get_args

import jax
import numpy as np

from metriplex.bridge.numbers import fresh
from metriplex.bridge.strictness import guards_transfers, own_rules
from metriplex.bridge.tracing import is_tracing, require_host
from metriplex.callback.assembly import make_plan, start
from metriplex.callback.device_methods import DeviceMethods
from metriplex.callback.host_methods import HostMethods
from metriplex.callback.host_run import CLOSE_TIMEOUT
from metriplex.callback.media_methods import MediaMethods
from metriplex.device.config import make_config
from metriplex.errors import MetriplexError
from metriplex.run.nonfinite import NonFinite
from metriplex.validation import check_choice
from metriplex.video.options import check_video

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from metriplex.device.axes import AxisName
    from metriplex.device.config import Config
    from metriplex.video.play.program import VideoProgram

Static: TypeAlias = "tuple[Config, VideoProgram | None]"
"""The static half of the pytree; callbacks of equal static halves share compiled programs."""


@final
@jax.tree_util.register_pytree_with_keys_class
class MetricsCallback(DeviceMethods, HostMethods, MediaMethods):
    """Log episode statistics, the training log and the learning rate from inside compiled code.

    Construct it outside of compiled functions, pass it to them as an argument (it is a pytree with
    one int32 leaf, so one compiled program serves any number of runs) or close over it, and call:

        state = metrics.init(num_envs)                          # once
        state = metrics.on_step(state, reward, done)            # each step, or each rollout
        state = metrics.on_iteration(state, training_log=log)   # each iteration: one record

    It is a context manager; leaving the `with` block closes the run.

    Args:
        name: The run's name and its directory under `log_dir`. None: `{policy.name}_{env.name}_
            {time}`, `{env.name}_{time}`, `{policy.name}_{time}` or `training_{time}`, by what is
            given. `_2`, `_3`, ... is appended if the directory exists already.
        env: The environment, for its name and for videos.
        policy: The policy, for its name.
        alpha: Weight of the newest episode in the moving averages, in (0, 1].
        log_dir: The directory of runs, in which the run's directory is made.
        resume: The run to continue, instead of a new one: its name under `log_dir`, or its
            directory (a path with a separator, as for `metriplex.read`). `init` then continues its
            count of steps. The resumed run may log to other backends than before.
        resume_step: The environment step of the checkpoint from which the training continues.
            Values that were logged beyond it are superseded in every backend. None: the newest
            step that was logged; nothing is superseded.
        backends: Backends to log to: names of installed backends, `{name: options}`, backend
            objects, a `metriplex.Route` of one of these, or a list of them. None: TensorBoard.
        transforms: Scalar transforms, which change or drop scalars before they are logged, in
            this order: names of transforms, `{name: options}`, objects with `transform_scalars`,
            or a list of these.
        hparams: Hyper-parameters, logged once: a mapping, a dataclass (so an equinox module, a flax
            struct), a namespace, ..., which may be nested.
        mask_secrets: True to replace hyper-parameters with secret names (`api_key`, ...) by `***`.
        provenance: True to log the provenance of the run once, as the text `run/provenance`:
            command, git commit and state, packages, host, devices. None: true unless the
            environment variable `METRIPLEX_PROVENANCE` is `0`.
        system_metrics: Seconds between two samples of processor, memory and GPUs (`system/...`);
            0 for no samples. Needs `pip install 'metriplex[system]'`.
        total_steps: Environment steps that the training will take, if known: for progress bars.
        lanes: Hyper-parameters in which vmapped lanes differ: names to arrays of one value a lane,
            of the shape of the vmapped axes (`{"lr": rates}`; for nested axes also shapes that
            broadcast to theirs, as `rates[:, None]` does). Logged once, with each lane.
        lane_names: Names of the lanes and of their directories; None: `seed_000`, ...
        aggregate: Also log statistics over lanes, in the run itself: mean, standard deviation,
            min, max, median and interquartile mean of each tag, as `aggregate/{tag}/mean`, ...
        episode_stats: Also log `episode/count` and minimum, maximum and mean of return and length
            of the episodes that finished since the last record.
        reduce: Reduction of arrays in `training_log`: None makes them an error, `"mean"` averages
            them.
        learning_rate: A rate, or an optax schedule that is evaluated at the optimizer state's own
            step count; used if the optimizer state holds no rate.
        log_every: Iterations between two records.
        buffer: Rows kept on the device before they are sent together; 0 sends each at once.
            `on_training_end` sends the remaining rows.
        buffer_width: Words (of 32 bits) that a buffered row may take.
        axis_name: Mapped axes (`shard_map`, `pmap`, `vmap(axis_name=)`) over which the
            environments are spread: values are made global over them. None: all axes of the
            `shard_map` or `pmap` that the program runs in, unless `init` is given lanes. `()`:
            none; every device is then a lane.
        transport: The way of records to the host. `"ffi"` calls the host from the program by XLA's
            FFI, on CPUs; `"callback"` by a callback of jax, on any device, which takes twice the
            time; `"auto"` by the FFI where it can serve. `"drain"` keeps the newest `buffer`
            records in the state, from which `drain` takes them between two programs, so that a
            program calls nothing.
        nonfinite: The policy for NaN and infinities. `"error"` reports the value as an error in the
            log at once, and at the close, and sends it to no backend; `"warn"` reports it as a
            warning; `"raise"` also raises `NonFiniteError` at the next `flush`, `close` or `with`
            exit; `"abort"` also stops the compiled program. `"keep"` sends the value to the
            backends as it is.
        queue_size: Records that may wait in memory for one backend. Newer ones are read from the
            journal later; without a journal they are dropped.
        journal: True to keep all records in the run's directory too, from which backends that lag
            behind or fail get them later; or a dictionary of options: `flush_secs` (longest time
            in seconds that records wait in memory), `fsync` and `max_bytes` (of a file).
        close_timeout: Seconds that `flush`, `close` and the end of the `with` block or the process
            wait for backends and videos; None waits without a limit. Where a signal ends the
            process, it is 30 s at most.
        video_interval: Iterations between two evaluation videos, `eval/video`; 0 for no videos.
            They need `env` and `on_iteration(policy=)`. A failure of a video is a warning.
        video_num_steps: Steps of a video; after the end of an episode a new one begins.
        video_width, video_height: Size in pixels.
        video_fps: Frames (that is, steps) a second.
        video_worker: Where videos are drawn and encoded: `"process"` is a process of their own
            that takes no time from training; `"thread"` is for objects that can't be pickled.
        renderer: The renderer: None asks every installed one; a name, `{name: options}`, an object
            with the hook `make_renderer`, or a `metriplex.Renderer`.

    Raises:
        ConfigurationError: An argument is not usable, or `log_dir` can't be written.
        PluginError: A backend is not installed, or broken.
        MetriplexError: The callback is constructed inside a compiled function.
    """

    __slots__ = ()

    def __init__(
        self,
        name: str | None = None,
        env: object = None,
        policy: object = None,
        alpha: float = 0.9,
        log_dir: str | os.PathLike[str] = "logs",
        *,
        resume: str | os.PathLike[str] | None = None,
        resume_step: int | None = None,
        backends: object = None,
        transforms: object = None,
        hparams: object = None,
        mask_secrets: bool = True,
        provenance: bool | None = None,
        system_metrics: float = 0.0,
        total_steps: int | None = None,
        lanes: Mapping[str, Any] | None = None,
        lane_names: Sequence[str] | None = None,
        aggregate: bool = False,
        episode_stats: bool = False,
        reduce: Literal["mean"] | None = None,
        learning_rate: float | Callable[..., Any] | None = None,
        log_every: int = 1,
        buffer: int = 0,
        buffer_width: int = 64,
        axis_name: AxisName | None = None,
        transport: Literal["auto", "ffi", "callback", "drain"] = "auto",
        nonfinite: NonFinite = "error",
        queue_size: int = 65_536,
        journal: bool | Mapping[str, Any] = True,
        close_timeout: float | None = CLOSE_TIMEOUT,
        video_interval: int = 0,
        video_num_steps: int = 256,
        video_width: int = 640,
        video_height: int = 480,
        video_fps: float = 50.0,
        video_worker: Literal["process", "thread"] = "process",
        renderer: object = None,
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
            abort=check_choice("nonfinite", nonfinite, get_args(NonFinite)) == "abort",
            transport=transport,
            video_interval=video_interval,
        )
        plan = make_plan(
            name,
            env,
            policy,
            log_dir,
            resume=resume,
            resume_step=resume_step,
            backends=backends,
            transforms=transforms,
            hparams=hparams,
            mask_secrets=mask_secrets,
            provenance=provenance,
            system_metrics=system_metrics,
            total_steps=total_steps,
            lanes=lanes,
            lane_names=lane_names,
            aggregate=aggregate,
            nonfinite=nonfinite,
            queue_size=queue_size,
            journal=journal,
            close_timeout=close_timeout,
            video=check_video(
                interval=video_interval,
                num_steps=video_num_steps,
                width=video_width,
                height=video_height,
                fps=video_fps,
                mode=video_worker,
            ),
            renderer=renderer,
        )
        self._host, place = start(plan, buffer=config.buffer, ring=config.ring)
        self._video = plan.videos and plan.videos.program
        self._config = replace(config, first_step=place.step, first_iteration=place.iteration)
        self._handle = np.array([self._host.handle, 0], np.int32)

    # ---- as a pytree ----------------------------------------------------------------------------

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any]], Static]:
        """Return the run handle, the only leaf, with its key, and the static half."""
        return ((jax.tree_util.GetAttrKey("handle"), self._leaf()),), (self._config, self._video)

    def tree_flatten(self) -> tuple[tuple[Any], Static]:
        """Return the run handle and the static half, without keys.

        jax flattens the arguments of a program each time that it is dispatched: the handle comes
        with a new number, by which executions are told apart.
        """
        self._note_program()
        return (self._leaf(),), (self._config, self._video)

    @classmethod
    def tree_unflatten(cls, static: Static, leaves: Sequence[Any]) -> Self:
        """Return a callback of the same run; the inverse of `tree_flatten`."""
        self = object.__new__(cls)
        (self._handle,) = leaves
        self._config, self._video = static
        self._host = None
        return self

    def _leaf(self) -> Any:
        if not isinstance(self._handle, np.ndarray):
            return self._handle
        leaf = fresh(self._handle)
        # A program takes an array of the host without a word, unless transfers are guarded. An
        # array of the device from the start would initialise jax in the constructor.
        if guards_transfers() and not is_tracing():
            with own_rules():
                return jax.device_put(leaf)
        return leaf

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copied train state logs to the same run

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise MetriplexError(
            f"{self!r} is an open run of this process and can't be pickled: leave it out of the "
            f"checkpoint, and construct a new callback where that is read"
        )

    def __repr__(self) -> str:
        host = self._known_host()
        name = "<traced>" if host is None else repr(host.run.info.name)
        return f"MetricsCallback({name})"
