"""Run one trial in this process: `python -m metriplex.doctor.child KIND NAME REPORT`."""

from __future__ import annotations

import importlib.util
import inspect
import io
import json
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, final

import jax
import numpy as np

from metriplex.bridge.ffi_handlers import explain_unusable
from metriplex.callback.callback import MetricsCallback
from metriplex.doctor.report import BROKEN, OK, WARNING, Finding
from metriplex.errors import MetriplexError
from metriplex.plugins.backends import Backend
from metriplex.plugins.checks import check_hooks
from metriplex.plugins.discovery import construct, find, load
from metriplex.plugins.hookspecs import hookimpl
from metriplex.plugins.host import Host
from metriplex.plugins.renderers import create_renderer
from metriplex.records import RunInfo
from metriplex.run.run import Run
from metriplex.video.draw.jobs import RenderJob
from metriplex.video.draw.worker import RenderWorker
from metriplex.video.encode.ffmpeg import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metriplex.records import Clip, Scalars
    from metriplex.video.draw.jobs import RenderResult

_WAIT_SECS = 30.0
_DRAW_SECS = 60.0
_WIDTH, _HEIGHT, _FPS = 160, 120, 10.0


def main(kind: str, name: str, report: str) -> None:
    """Try jax or one plugin, and write the finding: a JSON list of status, text and remedy."""
    trials = {"jax": _try_jax, "backend": _try_backend, "renderer": _try_renderer}
    try:
        if kind != "jax" and (needs := _needed_options(kind, name)):
            finding = Finding(WARNING, name, f"not tried, as it needs the options {needs}")
        else:
            finding = trials.get(kind, _try_other)(kind, name)
    except MetriplexError as error:
        finding = Finding(BROKEN, name, str(error))
    except Exception as error:  # noqa: BLE001 - plugins may raise anything
        finding = Finding(BROKEN, name, f"{type(error).__name__}: {error}")
    Path(report).write_text(json.dumps([finding.status, finding.text, finding.remedy]))


@final
class _Memory:
    """A backend that stores scalars in memory."""

    def __init__(self) -> None:
        self.records: list[Scalars] = []

    @hookimpl
    def log_scalars(self, records: Sequence[Scalars]) -> None:
        self.records += records


def _try_jax(_kind: str, name: str) -> Finding:
    devices = jax.devices()
    text = f"{jax.__version__} on {len(devices)} x {devices[0].device_kind}"
    memory = _Memory()
    with MetricsCallback("doctor", log_dir="logs", backends=memory) as metrics:

        @jax.jit
        def train(metrics: MetricsCallback, loss: jax.Array) -> jax.Array:
            state = metrics.on_training_start(metrics.init(1))
            state = metrics.on_iteration(state, training_log={"loss": loss})
            metrics.on_training_end(state)
            return loss

        train(metrics, jax.numpy.float32(0.5)).block_until_ready()
    values = [value for record in memory.records for value in record.values.values()]
    if 0.5 not in values:
        lost = f"{text}: a compiled program's values don't reach the host"
        return Finding(BROKEN, name, lost, "see whether `jax.debug.callback` works on the device")
    return Finding(OK, name, f"{text}; a compiled program's values reach the host {_way()}")


def _way() -> str:
    if jax.default_backend() != "cpu":
        return "by callbacks of jax"
    reason = explain_unusable()
    return "by XLA's FFI" if reason is None else f"by callbacks of jax, as of XLA's FFI {reason}"


def _try_backend(kind: str, name: str) -> Finding:
    start = time.monotonic()
    plugin = construct(kind, name, None)
    host = Host()
    backend = Backend(name, plugin, host=host)
    diagnosis, refusal = _diagnosis(host, name)
    if refusal is not None:
        return refusal
    if diagnosis:  # a trial would leave a run in the service
        return Finding(OK, name, diagnosis.removesuffix("; "))
    directory = Path("run").absolute()
    directory.mkdir()
    info = RunInfo(uuid.uuid4().hex, "doctor", directory, time.time())
    run = Run(info, [backend])
    run.log_scalars(1, {"doctor/value": 0.5})
    run.flush(_WAIT_SECS)
    run.close("finished", _WAIT_SECS)
    (delivery,) = run.deliveries()
    if delivery.error is not None:
        return Finding(BROKEN, name, f"a record could not be logged: {delivery.error}")
    if delivery.undelivered:
        return Finding(BROKEN, name, f"hangs: a record was not logged within {_WAIT_SECS:g} s")
    took = f"logged a record and closed in {time.monotonic() - start:.1f} s"
    return Finding(OK, name, took)


def _try_renderer(kind: str, name: str) -> Finding:
    plugin = construct(kind, name, None)
    host = Host()
    host.register(kind, [(name, plugin)])
    diagnosis, refusal = _diagnosis(host, name)
    if refusal is not None:
        return refusal
    example = host.hook.example_environment()
    if example is None:
        return Finding(
            WARNING, name, f"{diagnosis}not tried, as it brings no `example_environment`"
        )
    env, states = example
    renderer = create_renderer(plugin, env, _WIDTH, _HEIGHT)
    frames = [jax.tree.map(np.asarray, renderer.select(state)) for state in states]
    formats = ("gif", "mp4") if find_ffmpeg() is not None else ("gif",)
    start = time.monotonic()
    results: list[RenderResult] = []
    worker = RenderWorker(renderer, on_result=results.append, nice=0, timeout_secs=_DRAW_SECS)
    worker.submit(RenderJob("doctor", 0, _FPS, formats, frames))
    worker.close(2 * _DRAW_SECS)
    (result,) = results
    if result.error is not None:
        return Finding(BROKEN, name, f"{diagnosis}{result.error}")
    took = f"{time.monotonic() - start:.1f} s"
    if problem := _picture_problem(result.clips):
        return Finding(BROKEN, name, f"{diagnosis}{problem}")
    sizes = ", ".join(f"{key} {len(clip.data) / 1e3:.0f} kB" for key, clip in result.clips.items())
    text = f"{diagnosis}drew and encoded {len(frames)} frames in {took} ({sizes})"
    return Finding(OK, name, text)


def _try_other(kind: str, name: str) -> Finding:
    hooks = check_hooks(construct(kind, name, None), kind, name)
    return Finding(OK, name, f"has the hooks {', '.join(hooks)}")


def _needed_options(kind: str, name: str) -> str:
    """Return the options that the plugin's constructor requires."""
    try:
        parameters = inspect.signature(load(kind, find(kind, name))).parameters.values()
    except (TypeError, ValueError):
        return ""
    varied = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in varied]
    return ", ".join(f"`{option}`" for option in needed)


def _diagnosis(host: Host, name: str) -> tuple[str, Finding | None]:
    """Return the summary of the hook `diagnose`, and a finding if the plugin can't work."""
    found = host.hook.diagnose()
    if found is None:
        return "", None
    if not found.works:
        return "", Finding(BROKEN, name, str(found.summary), str(found.remedy))
    return f"{found.summary}; ", None


def _picture_problem(clips: Mapping[str, Clip]) -> str:
    """Return the problem with the pictures of a clip; empty if none, or without Pillow."""
    if importlib.util.find_spec("PIL") is None:
        return ""
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(clips["gif"].data)) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    if all(np.ptp(frame, axis=(0, 1)).max() == 0 for frame in frames):
        return "draws nothing: all its pictures are of one colour"
    if all(np.array_equal(frame, frames[0]) for frame in frames):
        return "draws all states of its example alike"
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
