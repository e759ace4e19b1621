"""The process of the wandb client: `python client.py DESCRIPTOR PARENT`.

The process runs this file, so that it imports neither metriplex nor jax. It receives calls on the
socket DESCRIPTOR, one after another, as `(method, arguments)` of `Client`, and answers each with
`("done", result)` or with the kind of the failure and its text. The process ends after `close`, or
when its parent has died: then it finishes every run as failed.
"""

from __future__ import annotations

import collections
import html
import io
import os
import pickle
import selectors
import signal
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import PIL.Image
import wandb
from wandb.proto import wandb_internal_pb2

HEADER = struct.Struct("<Q")
_LOOK_UP_SECONDS = 5.0
"""Seconds between checks that the parent lives; its other children may hold the socket open."""

_LOG_SECONDS = 0.1
"""Seconds between two writes of the transaction logs by the client's service."""

_AT_ONCE = 16
"""Largest number of runs that are finished at the same time."""

_SETTINGS = {
    "silent": True,
    "console": "off",
    "symlink": False,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": _LOG_SECONDS,
}

_LANE_SETTINGS = {"x_disable_stats": True, "x_save_requirements": False}
"""Settings of lanes' runs: only the run itself describes the machine."""

_RESERVED = ("_step", "_runtime", "_timestamp", "_wandb")


@final
class Client:
    """The W&B runs of one metriplex run and its lanes, each opened by its first record.

    Args:
        name: The run's name.
        run_id: The run's id; a lane's id is `{run_id}-seed_000`, whatever the lane's name.
        lane_format: `str.format` template for the name of a lane without a name.
        lanes: Names and hyper-parameters of the lanes that were described.
        step_metric: The key that holds the step in every row, the x axis of all other keys.
        init: Arguments of `wandb.init` for all of the runs.
        settings: Fields of `wandb.Settings`.
        hparams: Hyper-parameters known so far.
    """

    def __init__(
        self,
        name: str,
        run_id: str,
        lane_format: str,
        lanes: list[tuple[str, dict[str, Any]]],
        step_metric: str,
        init: dict[str, Any],
        settings: dict[str, Any],
        hparams: dict[str, Any],
    ) -> None:
        self._name, self._run_id, self._lane_format = name, run_id, lane_format
        self._lanes = lanes
        self._step_metric = step_metric
        self._init, self._settings = init, settings
        self._hparams = hparams
        self._runs: dict[int | None, _Run] = {}
        self._run(None)

    def log_hparams(self, hparams: dict[str, Any]) -> None:
        """Add to the config of every run."""
        self._hparams |= hparams
        for lane, run in self._runs.items():
            run.update_config(self._hparams | self._lane(lane)[1])

    def log_scalars(self, rows: list[tuple[int | None, int, float, dict[str, Any]]]) -> None:
        """Log rows of lane, step, wall time and values: all of them, or none if it raises."""
        runs = {lane: self._run(lane) for lane in dict.fromkeys(row[0] for row in rows)}
        for lane, step, wall_time, values in rows:
            runs[lane].log(step, wall_time, values)

    def log_text(self, lane: int | None, step: int, wall_time: float, tag: str, text: str) -> None:
        """Log a text as preformatted HTML, which W&B shows with a slider over the steps."""
        page = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False, data_is_not_path=True)
        self._run(lane).log(step, wall_time, {tag: page})

    def log_video(
        self, lane: int | None, step: int, wall_time: float, tag: str, mp4: bytes
    ) -> None:
        """Log an encoded clip."""
        video = wandb.Video(io.BytesIO(mp4), format="mp4")
        self._run(lane).log(step, wall_time, {tag: video})

    def log_image(
        self, lane: int | None, step: int, wall_time: float, tag: str, pixels: Any
    ) -> None:
        """Log a picture, uint8 `[height, width, 3]`."""
        image = wandb.Image(PIL.Image.fromarray(pixels), file_type="png")
        self._run(lane).log(step, wall_time, {tag: image})

    def log_histogram(
        self, lane: int | None, step: int, wall_time: float, tag: str, counts: Any, edges: Any
    ) -> None:
        """Log counts between edges; bins are merged if there are more than W&B accepts."""
        width = -(-len(counts) // wandb.Histogram.MAX_LENGTH)
        if width > 1:
            merged = [int(counts[i : i + width].sum()) for i in range(0, len(counts), width)]
            edges = [*edges[:-1:width], edges[-1]]
        else:
            merged = [int(count) for count in counts]
        bounds = [float(edge) for edge in edges]
        histogram = wandb.Histogram(np_histogram=(merged, bounds))
        self._run(lane).log(step, wall_time, {tag: histogram})

    def log_artifact(self, lane: int | None, step: int, name: str, path: str) -> None:
        """Log a file or directory, which does not change any more, as an artifact."""
        self._run(lane).log_artifact(step, name, path)

    def flush(self) -> None:
        """Wait until the transaction logs hold everything that was logged before."""
        for run in self._runs.values():
            run.wait_for_log()

    def close(self, exit_code: int) -> list[str]:
        """Finish every run.

        Returns:
            The directories of runs whose data could not be uploaded in time.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ended = list(pool.map(lambda run: run.finish(exit_code), self._runs.values()))
        return [directory for directory in ended if directory is not None]

    def _run(self, lane: int | None) -> _Run:
        if lane not in self._runs:
            of_lane = lane is not None
            name, hparams = self._lane(lane)
            run = wandb.init(
                id=f"{self._run_id}-{self._lane_format.format(lane)}" if of_lane else self._run_id,
                name=f"{self._name}-{name}" if of_lane else self._name,
                reinit="create_new",
                settings=wandb.Settings(
                    **(_SETTINGS | self._settings | (_LANE_SETTINGS if of_lane else {}))
                ),
                **self._init,
            )
            self._runs[lane] = _Run(run, self._step_metric)
            self._runs[lane].update_config(self._hparams | hparams)
        return self._runs[lane]

    def _lane(self, lane: int | None) -> tuple[str, dict[str, Any]]:
        """Return a lane's name and its own hyper-parameters."""
        if lane is None:
            return "", {}
        if 0 <= lane < len(self._lanes):
            return self._lanes[lane]
        return self._lane_format.format(lane), {}


@final
class _Run:
    """One W&B run."""

    def __init__(self, run: wandb.Run, step_metric: str) -> None:
        self._run = run
        self._step_metric = step_metric
        self._log = _TransactionLog(Path(run.settings.sync_file))
        self._sent: collections.Counter[str] = collections.Counter()
        # Without this, W&B's x axis is the number of the row, which must not decrease.
        run.define_metric(step_metric)
        run.define_metric("*", step_metric=step_metric)

    def update_config(self, hparams: dict[str, Any]) -> None:
        if hparams:
            self._run.config.update(_nested(hparams), allow_val_change=True)
            self._sent["config"] += 1

    def log(self, step: int, wall_time: float, values: dict[str, Any]) -> None:
        row = {self._key(tag): value for tag, value in values.items()}
        row[self._step_metric] = step
        if wall_time:
            row["_timestamp"] = wall_time
        self._run.log(row)
        self._sent["history"] += 1

    def log_artifact(self, step: int, name: str, path: str) -> None:
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "-" for c in name)
        artifact = wandb.Artifact(
            f"{plain[:64]}-{self._run.id}", type="file", metadata={"name": name, "step": step}
        )
        if Path(path).is_dir():
            artifact.add_dir(path, name=name, policy="immutable", skip_cache=True)
        else:
            artifact.add_file(path, name=name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=["latest", f"step_{step}"])
        self._sent["artifact"] += 1

    def wait_for_log(self, seconds: float = 30.0) -> None:
        if self._run.disabled:
            return
        deadline = time.monotonic() + seconds
        while any(self._log.count()[kind] < number for kind, number in self._sent.items()):
            if time.monotonic() > deadline:
                raise ConnectionError(f"it wrote nothing for {seconds:g} s")
            time.sleep(_LOG_SECONDS / 10)

    def finish(self, exit_code: int) -> str | None:
        try:
            self._run.finish(exit_code)
        except TimeoutError:
            return str(self._run.settings.sync_dir)
        return None

    def _key(self, tag: str) -> str:
        """Return the tag, or another name if W&B or the step axis uses the tag's."""
        plain = tag.encode("utf-8", "backslashreplace").decode()
        return f"tag/{plain}" if plain in (*_RESERVED, self._step_metric) else plain


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Nest names that are joined by `/`, unless one name is both a value and a group.

    NaN becomes a text, since the client stores no NaN in a config.
    """
    nested: dict[str, Any] = {}
    for name, given in flat.items():
        value = given if given == given else "NaN"
        *groups, last = name.split("/")
        parents = ["/".join(groups[: i + 1]) for i in range(len(groups))]
        if any(parent in flat for parent in parents) or "" in (*groups, last):
            nested[name] = value
            continue
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested


@final
class _TransactionLog:
    """Count the records in a run's `.wandb` file, which has the log format of LevelDB."""

    _BLOCK = 2**15
    _HEAD = struct.Struct("<IHB")
    _FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = self._HEAD.size  # the file's header is as long as a chunk's
        self._counts: collections.Counter[str] = collections.Counter()

    def count(self) -> collections.Counter[str]:
        """Return the number of complete records so far, by kind."""
        if not self._path.exists():
            return self._counts
        with self._path.open("rb") as file:
            start = self._position - self._position % self._BLOCK
            file.seek(start)
            data = file.read()
        position = self._position - start
        record = b""
        while len(data) - position >= self._HEAD.size:
            left = self._BLOCK - position % self._BLOCK
            if left < self._HEAD.size:
                position += left
                continue
            _, size, kind = self._HEAD.unpack_from(data, position)
            position += self._HEAD.size
            if kind == 0 or position + size > len(data):
                break
            record = (
                record * (kind not in (self._FULL, self._FIRST)) + data[position : position + size]
            )
            position += size
            if kind in (self._FULL, self._LAST):
                found = wandb_internal_pb2.Record.FromString(record).WhichOneof("record_type")
                self._counts[found or ""] += 1
                self._position = start + position
        return self._counts


@final
class Channel:
    """Messages over a socket, each a length and a pickle.

    Args:
        descriptor: The socket's file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def receive(self) -> Any:
        """Return the next message. Raise `EOFError` if the connection is closed."""
        (size,) = HEADER.unpack(self._read(HEADER.size))
        return pickle.loads(self._read(size))  # noqa: S301 - our parent's

    def send(self, message: Any) -> None:
        """Send a message."""
        data = pickle.dumps(message)
        self._socket.sendall(HEADER.pack(len(data)) + data)

    def wait(self, parent: int) -> None:
        """Wait until there is data to receive. Raise `EOFError` if the parent has died."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not selector.select(_LOOK_UP_SECONDS):
                if os.getppid() != parent:
                    raise EOFError

    def _read(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            chunk = self._socket.recv(min(size - len(data), 2**20))
            if not chunk:
                raise EOFError
            data += chunk
        return data


def serve(channel: Channel, parent: int) -> None:
    """Execute calls until `close`, or until the parent has died."""
    client: Client | None = None
    try:
        while True:
            channel.wait(parent)
            method, arguments = channel.receive()
            try:
                result = None
                if client is not None:
                    result = getattr(client, method)(**arguments)
                elif method == "open":
                    client = Client(**arguments)
                else:
                    result = diagnose(**arguments)
            except ConnectionError as error:
                sys.exit(f"the client's service is gone ({error})")
            except Exception as error:  # noqa: BLE001 - the parent raises it
                kind = _kind(error, opening=client is None)
                channel.send((kind, f"{type(error).__name__}: {error}"))
                continue
            channel.send(("done", result))
            if method == "close":
                return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if client is not None:
            client.close(exit_code=1)


def diagnose(mode: str | None, settings: dict[str, Any]) -> str:
    """Return a sentence about the user who is logged in, and the server.

    Args:
        mode: The `mode` of `wandb.init`.
        settings: Fields of `wandb.Settings`.
    """
    own = {**settings, "mode": mode} if mode is not None else settings
    known = wandb.setup(wandb.Settings(**own)).settings
    if known.mode != "online":
        return f"wandb {wandb.__version__}, {known.mode}: nothing is uploaded"
    viewer = wandb.Api(timeout=10).viewer
    return f"wandb {wandb.__version__}, logged in to {known.base_url} as {viewer.username}"


def _kind(error: Exception, *, opening: bool) -> str:
    if isinstance(error, wandb.errors.AuthenticationError | wandb.errors.UsageError):
        return "configuration"
    if opening and isinstance(error, ValueError):  # an invalid setting
        return "configuration"
    if isinstance(error, wandb.errors.CommError | OSError):
        return "transient"
    return "failure"


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # only the parent ends logging
        signal.signal(number, signal.SIG_IGN)
    own, above = int(sys.argv[1]), int(sys.argv[2])
    sys.argv = sys.argv[3:]  # the training's arguments, which W&B shows
    serve(Channel(own), above)
