"""The names that users of the callback pattern know, over the same bridge."""

from __future__ import annotations

import functools
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, final

import jax
import jax.numpy as jnp
import numpy as np

from metriplex import bridge
from metriplex.callback import MetricsCallback
from metriplex.owner import CLOSE_TIMEOUT
from metriplex.packing import Header, Kind, make_schema, pack
from metriplex.tracing import require_host

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from metriplex.sequence import Row

logger = logging.getLogger("metriplex")

P = ParamSpec("P")


def TensorBoardCallback(  # noqa: N802 - the pattern's name
    name: str | None = None,
    env: object = None,
    policy: object = None,
    alpha: float = 0.9,
    log_dir: str | os.PathLike[str] = "logs",
    video_interval: int = 0,
    video_num_steps: int = 256,
    video_width: int = 640,
    video_height: int = 480,
    video_fps: float = 50.0,
) -> MetricsCallback:
    """A `MetricsCallback` that logs to TensorBoard, with the pattern's arguments.

    Args:
        name: The run's name; None generates one from the policy, the environment and the time.
        env: The environment; gives its name.
        policy: The policy; gives its name.
        alpha: Weight of the newest episode in the moving averages, in (0, 1].
        log_dir: Where the run's directory is made.
        video_interval: Iterations between two evaluation videos; 0 records none. This version
            records none at all and says so in a warning.
        video_num_steps: Steps of a video.
        video_width: Width of a video in pixels.
        video_height: Height of a video in pixels.
        video_fps: Frames a second of a video.

    Returns:
        The callback.

    Raises:
        ConfigurationError: An argument is not usable, or `log_dir` can't be written.
        MetriplexError: It is constructed inside a compiled function.
    """
    require_host("TensorBoardCallback")
    if video_interval:
        warnings.warn(
            f"`video_interval={video_interval}`: this version of metriplex records no evaluation "
            f"videos ({video_num_steps} steps, {video_width} x {video_height} at {video_fps:g} "
            f"frames a second); everything else is logged",
            stacklevel=2,
        )
    return MetricsCallback(name, env, policy, alpha, log_dir, backends="tensorboard")


@final
class JITSummaryWriter:
    """A summary writer whose methods work inside compiled functions.

    Construct it outside of them and close over it. Rows are delivered in the order in which they
    reach the host, which for programs on one device is the program's.

    Args:
        log_dir: The directory to write to, as `tensorboardX.SummaryWriter` takes it; made unique by
            `_2`, `_3`, ... if it exists. None: `logs/training_{time}`.
        backends: As for `MetricsCallback`; None is TensorBoard.

    Raises:
        MetriplexError: It is constructed inside a compiled function.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] | None = None, *, backends: object = None
    ) -> None:
        require_host("JITSummaryWriter")
        if log_dir is None:
            self.metrics = MetricsCallback(backends=backends)
        else:
            path = Path(log_dir)
            self.metrics = MetricsCallback(path.name, log_dir=path.parent, backends=backends)

    def add_scalar(
        self, tag: str, scalar_value: Any, global_step: jax.typing.ArrayLike = 0
    ) -> None:
        """Logs one scalar.

        Args:
            tag: Its name.
            scalar_value: A number, or an array of size one.
            global_step: The step, an integer that is not negative.

        Raises:
            LoggingError: At trace time, if the value can't be logged.
            ClosedError: The writer is closed.
        """
        self.metrics.log(global_step, {tag: scalar_value})

    def add_dict(
        self,
        scalars: Mapping[str, Any],
        *,
        prefix: str = "",
        global_step: jax.typing.ArrayLike = 0,
    ) -> None:
        """Logs scalars by name, all in one row; names may be nested, and `prefix/` comes first.

        Raises:
            LoggingError: At trace time, if a value can't be logged.
            ClosedError: The writer is closed.
        """
        self.metrics.log(global_step, {prefix: scalars} if prefix else scalars)

    def flush(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """As `MetricsCallback.flush`."""
        self.metrics.flush(timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """As `MetricsCallback.close`."""
        self.metrics.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.metrics.__exit__(kind, error, traceback)


def callback_with_numpy_wrapper(function: Callable[P, object]) -> Callable[P, None]:
    """Makes a host function callable from compiled code, with NumPy values.

    The function is called on metriplex's drain thread, where it may take its time, do I/O and even
    call jax, after the arrays have reached the host; under `vmap` once for each lane, in order.
    What it raises is logged, and stops nothing. `metriplex.bridge.barrier` waits for its calls.

    Args:
        function: Takes pytrees whose leaves are real arrays or plain Python values.

    Returns:
        A function of the same arguments, for eager and for compiled code. Arrays, traced or not,
        reach `function` as NumPy arrays of the same shape and dtype; everything else as it is.

    Raises:
        MetriplexError: The wrapper is made inside a compiled function.
    """
    require_host("callback_with_numpy_wrapper")
    calls: dict[Any, int] = {}

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        arrays = {str(i): leaf for i, leaf in enumerate(leaves) if _is_array(leaf)}
        values = {name: jnp.asarray(leaf) for name, leaf in arrays.items()}
        static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
        dtypes = tuple((name, str(value.dtype)) for name, value in values.items())
        try:
            handle = calls.get((treedef, static, dtypes))
        except TypeError:  # a leaf that can't be hashed
            handle = None
        if handle is None:
            handle = bridge.register(_Call(function, treedef, static, dict(dtypes)))
            with_hash = all(getattr(type(leaf), "__hash__", None) for leaf in static)
            if with_hash:
                calls[treedef, static, dtypes] = handle
        header = dict.fromkeys(Header, -1) | {Header.RUN: handle, Header.VALID: 1}
        row = pack(make_schema(Kind.RECORD, values), header, values, {})
        bridge.emit(row[None])

    return wrapper


@final
class _Call:
    """The sink that calls a host function with the values of a row."""

    def __init__(
        self,
        function: Callable[..., object],
        treedef: jax.tree_util.PyTreeDef,
        static: Sequence[Any],
        dtypes: Mapping[str, str],
    ) -> None:
        self._function = function
        self._treedef = treedef
        self._static = static
        self._dtypes = dtypes

    def receive(self, rows: Sequence[Row]) -> None:
        """Calls the function once a row. The drain thread calls."""
        for row in rows:
            leaves = list(self._static)
            for name, value in row.values.items():
                leaves[int(name)] = np.asarray(value, jnp.dtype(self._dtypes[name]))
            args, kwargs = jax.tree.unflatten(self._treedef, leaves)
            try:
                self._function(*args, **kwargs)
            except Exception:
                logger.exception("host function `%s` failed", self._function)


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)
